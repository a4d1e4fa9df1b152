"""The registry of hooks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from utils.callbacks import HOOKS, Callbacks, Plugin
from utils.errors import InputError


def test_actions_run_in_the_order_of_registration_with_their_arguments() -> None:
    callbacks, heard = Callbacks(), []
    callbacks.register_action("on_train_epoch_end", "first", lambda epoch: heard.append(("first", epoch)))
    callbacks.register_action("on_train_epoch_end", "second", lambda epoch: heard.append(("second", epoch)))
    callbacks.run("on_train_epoch_end", epoch=3)
    callbacks.run("on_train_start")  # nobody there
    assert heard == [("first", 3), ("second", 3)]


def test_what_an_action_raises_is_not_swallowed() -> None:
    callbacks = Callbacks()
    callbacks.register_action("on_train_start", callback=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        callbacks.run("on_train_start")


def test_known_hooks_and_own_additions() -> None:
    published = {
        "on_pretrain_routine_start", "on_pretrain_routine_end", "on_train_start", "on_train_epoch_start",
        "on_train_batch_start", "optimizer_step", "on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end",
        "on_val_start", "on_val_batch_start", "on_val_image_end", "on_val_batch_end", "on_val_end",
        "on_fit_epoch_end", "on_model_save", "on_train_end", "on_params_update", "teardown",
    }  # fmt: skip
    assert set(HOOKS) == published | {"on_training_ready", "on_before_optimizer_step"}
    assert list(Callbacks().get_registered_actions()) == list(HOOKS)


def test_registered_actions_are_listed() -> None:
    callbacks, action = Callbacks(), print
    callbacks.register_action("on_val_end", "printer", action)
    assert callbacks.get_registered_actions("on_val_end") == [{"name": "printer", "callback": action}]
    assert Callbacks().get_registered_actions("on_val_end") == []  # registries share nothing
    assert callbacks.stop_training is False


@pytest.mark.parametrize("use", ["register", "run", "get"])
def test_unknown_hook_is_named(use: str) -> None:
    callbacks = Callbacks()
    with pytest.raises(InputError, match=r"on_trian_start.*expected one of"):
        if use == "register":
            callbacks.register_action("on_trian_start", callback=print)
        elif use == "run":
            callbacks.run("on_trian_start")
        else:
            callbacks.get_registered_actions("on_trian_start")


def test_actions_are_taken_out_by_name() -> None:
    callbacks, heard = Callbacks(), []
    for name in ("mine", "other"):
        for hook in ("on_train_start", "teardown"):
            callbacks.register_action(hook, name, lambda name=name: heard.append(name))
    callbacks.remove_actions("mine")
    callbacks.run("on_train_start")
    callbacks.run("teardown")
    assert heard == ["other", "other"]


def test_action_must_be_callable() -> None:
    with pytest.raises(InputError, match="must be callable, got NoneType"):
        Callbacks().register_action("on_train_start", "nothing")


class Counting(Plugin):
    """Counts epochs, and remembers the count in checkpoints."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_epoch_end(self, epoch: int) -> None:
        self.count += 1

    def teardown(self) -> None:
        self.count = -1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count} if self.count else {}

    def load_state_dict(self, record: Any) -> None:
        self.count = record["count"]


def test_a_plugin_takes_part_at_the_hooks_that_it_overrides() -> None:
    callbacks, plugin = Callbacks(), Counting()
    callbacks.add(plugin)
    registered = {hook for hook, actions in callbacks.get_registered_actions().items() if actions}
    assert registered == {"on_train_epoch_end", "teardown"}
    callbacks.run("on_train_epoch_end", epoch=0)
    assert plugin.count == 1
    callbacks.remove_actions("Counting")
    callbacks.run("on_train_epoch_end", epoch=1)
    assert plugin.count == 1 and callbacks.plugins == []


def test_plugins_get_the_state_and_their_records_when_training_begins() -> None:
    callbacks, plugin, heard = Callbacks(), Counting(), []
    callbacks.add(plugin)
    callbacks.register_action("on_training_ready", callback=lambda state: heard.append((plugin.state, plugin.count)))
    assert callbacks.state_dict() == {}
    state = SimpleNamespace(plugins={"Counting": {"count": 3}, "Other": {}})
    callbacks.begin(state)
    assert heard == [(state, 0)]  # the record comes after the hook
    assert callbacks.state_dict() == {"Counting": {"count": 3}}


def test_two_plugins_with_one_name_are_refused() -> None:
    callbacks = Callbacks()
    callbacks.add(Counting())
    with pytest.raises(InputError, match="two plug-ins have the name 'Counting'"):
        callbacks.add(Counting())


def test_plugins_added_for_a_block_are_removed_after_it() -> None:
    callbacks, plugin = Callbacks(), Counting()
    with pytest.raises(ZeroDivisionError), callbacks.added(plugin):
        callbacks.run("on_train_epoch_end", epoch=0)
        raise ZeroDivisionError
    callbacks.run("on_train_epoch_end", epoch=1)
    assert plugin.count == 1 and callbacks.plugins == []
