"""Named points of a training or validation run at which other code may take part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from utils.errors import InputError

HOOKS = (
    "on_pretrain_routine_start",
    "on_pretrain_routine_end",
    "on_training_ready",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_optimizer_step",
    "optimizer_step",
    "on_before_zero_grad",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_val_start",
    "on_val_batch_start",
    "on_val_image_end",
    "on_val_batch_end",
    "on_val_end",
    "on_fit_epoch_end",
    "on_model_save",
    "on_train_end",
    "on_params_update",
    "teardown",
)


class Callbacks:
    """Registry of actions by hook; ``stop_training`` set to True ends a training run after the current batch.

    In data-parallel training the first rank's ``stop_training`` counts, at the end of the epoch. There these hooks run
    on the first rank only: ``on_pretrain_routine_end``, ``on_train_batch_end``, ``on_val_*``, ``on_model_save`` and
    ``on_train_end``. All others run on every rank (in YOLOv5 ``on_train_epoch_end`` and ``on_fit_epoch_end`` do not),
    with the validation results of the first.

    Beside YOLOv5's hooks there are ``on_training_ready`` (argument: the run's state, once model, optimizer and loaders
    exist) and ``on_before_optimizer_step`` (the state; gradients are unscaled and clipped by then).

        callbacks = Callbacks()
        callbacks.register_action("on_train_epoch_end", "clock", lambda epoch: print(epoch, time.time()))
        train.run(data="coco128.yaml", callbacks=callbacks)
    """

    def __init__(self) -> None:
        self._callbacks: dict[str, list[dict[str, Any]]] = {hook: [] for hook in HOOKS}
        self.stop_training = False

    def register_action(self, hook: str, name: str = "", callback: Callable[..., Any] | None = None) -> None:
        """Have ``callback`` called at ``hook``, after those already there. Raises InputError for an unknown hook."""
        actions = self._at(hook)
        if not callable(callback):
            raise InputError(f"the action {name!r} for hook {hook} must be callable, got {type(callback).__name__}")
        actions.append({"name": name, "callback": callback})

    def get_registered_actions(self, hook: str | None = None) -> Any:
        """The list of ``{'name', 'callback'}`` at ``hook``, or the mapping of all hooks to their lists."""
        return self._at(hook) if hook else self._callbacks

    def remove_actions(self, name: str) -> None:
        """Take every action that was registered under ``name`` out of all hooks."""
        for actions in self._callbacks.values():
            actions[:] = [action for action in actions if action["name"] != name]

    def run(self, hook: str, *args: Any, **kwargs: Any) -> None:
        """Call the actions of ``hook`` in the order of registration; what they raise is not caught."""
        for action in self._at(hook):
            action["callback"](*args, **kwargs)

    def _at(self, hook: str) -> list[dict[str, Any]]:
        if hook not in self._callbacks:
            raise InputError(f"no hook is called {hook!r}: expected one of {', '.join(self._callbacks)}")
        return self._callbacks[hook]
