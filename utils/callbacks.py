"""Hooks: named points of a training or validation run at which other code takes part.

A plug-in is an object of a subclass of ``Plugin``; it overrides the hooks that it serves::

    class Clock(Plugin):
        def on_train_epoch_end(self, epoch: int) -> None:
            print(epoch, time.time())

    callbacks = Callbacks()
    callbacks.add(Clock())
    train.run(data="coco128.yaml", callbacks=callbacks)

Single functions are registered as in YOLOv5 v6.2, with ``Callbacks.register_action``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from utils.training.results import EpochResult
    from utils.training.state import TrainingState


class Plugin:
    """Base class of what takes part in a run. Every hook is a method; those that do nothing here are never called.

    Attributes:
        name: of its actions and of its record in checkpoints; the class's name unless the class sets it. All plug-ins
            of a run have different names.
        state: the training run, from ``on_training_ready`` on.
    """

    name: str = ""
    state: TrainingState

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Name the class's plug-ins."""
        super().__init_subclass__(**keywords)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    # -- hooks, in the order in which they fire ------------------------------------------------------------------------

    def on_pretrain_routine_start(self) -> None:
        """Called before anything is read."""

    def on_params_update(self, params: dict[str, Any]) -> None:
        """Called with the batch size that ``--batch-size -1`` has found."""

    def on_pretrain_routine_end(self) -> None:
        """Called when everything is built; on the first rank."""

    def on_training_ready(self, state: TrainingState) -> None:
        """Called when everything is built, before the record of a resumed run is loaded."""

    def on_train_start(self) -> None:
        """Called before the first epoch."""

    def on_train_epoch_start(self) -> None:
        """Called at the start of each epoch."""

    def on_train_batch_start(self) -> None:
        """Called before each batch."""

    def on_before_optimizer_step(self, state: TrainingState) -> None:
        """Called before each optimizer step; gradients are unscaled and clipped, and may be changed."""

    def optimizer_step(self, state: TrainingState) -> None:
        """Called after each optimizer step, also after one that loss scaling has skipped: see ``skips_step``."""

    def on_before_zero_grad(self, state: TrainingState) -> None:
        """Called after ``optimizer_step``, before the gradients are cleared."""

    def on_train_batch_end(
        self, ni: int, model: nn.Module, imgs: torch.Tensor, targets: torch.Tensor, paths: Sequence[str], plots: bool
    ) -> None:
        """Called after each batch; on the first rank.

        Args:
            ni: number of the batch, counted over all epochs.
            model: the network being trained.
            imgs: (B, 3, H, W) in 0..1, on the device.
            targets: (n, 6) rows of image index, class, x, y, w, h, normalised.
            paths: of the images.
            plots: whether pictures are drawn.
        """

    def on_train_epoch_end(self, epoch: int) -> None:
        """Called after the batches of each epoch, before validation."""

    def on_val_start(self) -> None:
        """Called before each validation; this hook and the following four on the first rank."""

    def on_val_batch_start(self) -> None:
        """Called before each validation batch."""

    def on_val_image_end(
        self, pred: torch.Tensor, predn: torch.Tensor, path: Path, names: dict[int, str], im: torch.Tensor
    ) -> None:
        """Called after each validation image that has detections.

        Args:
            pred: (N, 6) x1, y1, x2, y2, confidence, class in pixels of the network's input.
            predn: the same in pixels of the image file.
            path: of the image.
            names: of the classes.
            im: (3, H, W), the network's input.
        """

    def on_val_batch_end(self) -> None:
        """Called after each validation batch."""

    def on_val_end(self) -> None:
        """Called after each validation that draws pictures."""

    def on_fit_epoch_end(self, vals: EpochResult, epoch: int, best_fitness: float, fi: float) -> None:
        """Called after the validation of each epoch, with its figures and its fitness ``fi``."""

    def on_model_save(self, last: Path, epoch: int, final_epoch: bool, best_fitness: float, fi: float) -> None:
        """Called when the checkpoints of an epoch have been written; on the first rank."""

    def on_train_end(self, last: Path, best: Path, plots: bool, epoch: int, results: Sequence[float]) -> None:
        """Called after the last validation, before last.pt is stripped; on the first rank.

        ``results`` are P, R, mAP50, mAP50-95 and the three validation losses of best.pt.
        """

    def teardown(self) -> None:
        """Called at the very end, also of a run that failed."""

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values and tensors; {} keeps nothing."""
        return {}

    def load_state_dict(self, record: Any) -> None:
        """Continue where ``state_dict`` was taken. The record comes from a file that may be damaged: check it."""


_OF_CHECKPOINTS = ("state_dict", "load_state_dict")
HOOKS = tuple(
    name
    for name, member in vars(Plugin).items()
    if isfunction(member) and not name.startswith("_") and name not in _OF_CHECKPOINTS
)


class Callbacks:
    """Registry of actions by hook; ``stop_training`` set to True ends a training run after the current batch.

    In data-parallel training the first rank's ``stop_training`` counts, at the end of the epoch. Hooks run on every
    rank (in YOLOv5 ``on_train_epoch_end`` and ``on_fit_epoch_end`` do not), with the validation results of the first,
    except for those that ``Plugin`` describes as running on the first rank.

    Attributes:
        plugins: those added, in order.
    """

    def __init__(self) -> None:
        self._callbacks: dict[str, list[dict[str, Any]]] = {hook: [] for hook in HOOKS}
        self.plugins: list[Plugin] = []
        self.stop_training = False

    def add(self, plugin: Plugin) -> None:
        """Register the hooks that the class of ``plugin`` overrides. Raises InputError if its name is taken."""
        if plugin.name in (other.name for other in self.plugins):
            raise InputError(f"two plug-ins have the name {plugin.name!r}: set 'name' in the class of one of them")
        for hook in HOOKS:
            if getattr(type(plugin), hook) is not getattr(Plugin, hook):
                self.register_action(hook, plugin.name, getattr(plugin, hook))
        self.plugins.append(plugin)

    @contextmanager
    def added(self, *plugins: Plugin) -> Iterator[None]:
        """Have ``plugins`` take part during the block only, so that other runs can use the same callbacks."""
        try:
            for plugin in plugins:
                self.add(plugin)
            yield
        finally:
            for plugin in plugins:
                if plugin in self.plugins:
                    self.remove_actions(plugin.name)

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
        """Remove the plug-ins and actions that are registered under ``name`` from all hooks."""
        self.plugins = [plugin for plugin in self.plugins if plugin.name != name]
        for actions in self._callbacks.values():
            actions[:] = [action for action in actions if action["name"] != name]

    def run(self, hook: str, *args: Any, **kwargs: Any) -> None:
        """Call the actions of ``hook`` in the order of registration; what they raise is not caught."""
        for action in self._at(hook):
            action["callback"](*args, **kwargs)

    def begin(self, state: TrainingState) -> None:
        """Hand ``state`` to all plug-ins, run ``on_training_ready``, and load the records of a resumed run."""
        for plugin in self.plugins:
            plugin.state = state
        self.run("on_training_ready", state)
        for plugin in self.plugins:
            if plugin.name in state.plugins:
                plugin.load_state_dict(state.plugins[plugin.name])

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The records of the plug-ins that have one, by name."""
        records = {plugin.name: plugin.state_dict() for plugin in self.plugins}
        return {name: record for name, record in records.items() if record}

    def _at(self, hook: str) -> list[dict[str, Any]]:
        if hook not in self._callbacks:
            raise InputError(f"no hook is called {hook!r}: expected one of {', '.join(self._callbacks)}")
        return self._callbacks[hook]
