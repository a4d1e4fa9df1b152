"""Trains with a sparsity penalty and writes down what one process sees: alone, or as one of several ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from prune_tools.sparsity.penalty import PenaltySettings, SparsityPenalty
from utils.callbacks import HOOKS, Callbacks
from utils.commands.options import build
from utils.storage.files import write_yaml
from utils.training.options import TrainOptions
from utils.training.state import TrainingState

RATE = 0.05
EPOCHS = 3


class Probe:
    """Holds batch norm at its first statistics, and notes images, gradients and weights of one process."""

    def __init__(self, callbacks: Callbacks) -> None:
        self.images: list[list[float]] = []  # of each batch the sum of each image
        self.penalties: list[dict[str, Any]] = []  # of each optimizer step
        self.gammas: list[torch.nn.Parameter] = []
        self.hooks: set[str] = set()  # those that ran
        for hook in HOOKS:
            callbacks.register_action(hook, callback=lambda *_, hook=hook, **__: self.hooks.add(hook))
        penalty = SparsityPenalty(PenaltySettings(sr=RATE))
        callbacks.register_action("on_training_ready", callback=self.ready)
        callbacks.register_action("on_train_epoch_start", callback=self.start_epoch)
        callbacks.register_action("on_train_epoch_end", callback=self.remove_hook)
        callbacks.register_action("on_before_optimizer_step", callback=self.before)
        callbacks.add(penalty)
        callbacks.register_action("on_before_optimizer_step", callback=self.after)
        self.penalty = penalty
        self.hook: Any = SimpleNamespace(remove=lambda: None)

    def ready(self, state: TrainingState) -> None:
        self.state = state

    def remove_hook(self, epoch: int) -> None:
        self.hook.remove()  # checkpoints hold the model without it

    def start_epoch(self) -> None:
        self.hook.remove()
        self.hook = self.state.model.register_forward_pre_hook(self.note_images)
        self.gammas = [norm.weight for norm in self.penalty.gammas.norms.values()]
        for module in self.state.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()

    def note_images(self, model: torch.nn.Module, arguments: tuple[torch.Tensor]) -> None:
        if model.training:
            self.images.append(arguments[0].double().sum((1, 2, 3)).tolist())

    def before(self, state: TrainingState) -> None:
        self.gradients = [gamma.grad.clone() for gamma in self.gammas]

    def after(self, state: TrainingState) -> None:
        added = torch.cat([gamma.grad - old for gamma, old in zip(self.gammas, self.gradients, strict=True)])
        self.penalties.append(
            {
                "epoch": state.epoch,
                "batches": state.pending_batches,
                "lowest": float(added.min()),
                "highest": float(added.max()),
            }
        )


def observe(folder: Path, **options: Any) -> dict[str, Any]:
    """Train with ``options`` and return what was seen."""
    callbacks = Callbacks()
    probe = Probe(callbacks)
    results = train.main(
        build(
            TrainOptions, weights="", imgsz=64, epochs=EPOCHS, workers=0, device="cpu", project=str(folder),
            noplots=True, noval=True, nosave=True, exist_ok=True, **options,
        ),
        callbacks,
    )  # fmt: skip
    weights = {name: value.clone() for name, value in probe.state.model.state_dict().items()}
    return {
        "images": probe.images,
        "penalties": probe.penalties,
        "hooks": probe.hooks,
        "weights": weights,
        "results": results,
        "threads": sorted(file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")),
    }


def write_hyperparameters(folder: Path) -> str:
    """A file with learning rates that move the weights within a few steps."""
    from utils.storage.files import ROOT
    from utils.training.hyperparameters import read_hyperparameters

    hyp = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
    write_yaml(folder / "hyp.yaml", hyp | {"lr0": 0.5, "mixup": 0.3})
    return str(folder / "hyp.yaml")


if __name__ == "__main__":
    from utils.distributed import current_world

    torch.set_num_threads(1)
    target, arguments = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.save(observe(target, **arguments), target / f"rank{current_world().rank}.pt")
