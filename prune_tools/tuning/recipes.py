"""Named schedules for training that continues from a trained model: sparse training by polarize, and fine-tuning.

YOLOv5's schedule is made for runs of hundreds of epochs that start far from their goal. A trained model starts near it
and has few epochs: accumulating to 64 images leaves it few optimizer steps, and a warm-up that moves biases at ten
times the rate destroys what is left of its accuracy. What a recipe changes besides hyperparameters is given in epochs
and shares of the run, so that it means the same for small and large data sets, short and long runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from utils.storage.files import ROOT


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run that together make its schedule.

    Attributes:
        hyp: file below data/hyps.
        optimizer: its name; the file's lr0 belongs to it.
        every_batch: step after each batch instead of accumulating to 64 images.
        average_epochs: how far the moving average of the weights looks back; 0: as YOLOv5, 10,000 steps.
        longest_warmup: share of the run's batches after which the warm-up ends at the latest; 1: as YOLOv5, which warms
            up for at least 100 batches, even in a run that has fewer.
        without_mosaic: share of the epochs, the last ones, that show whole images only.
    """

    hyp: str
    optimizer: str
    every_batch: bool = False
    average_epochs: float = 0.0
    longest_warmup: float = 1.0
    without_mosaic: float = 0.0

    @property
    def hyp_file(self) -> Path:
        """The file of the hyperparameters."""
        return ROOT / "data/hyps" / self.hyp

    def summary(self) -> str:
        """The changes of the recipe besides hyperparameters, in words."""
        parts = ["a step after every batch" if self.every_batch else "gradients of 64 images for each step"]
        if self.average_epochs:
            parts.append(f"weights averaged over {self.average_epochs:g} epochs")
        if self.longest_warmup < 1:
            parts.append(f"warm-up at most {self.longest_warmup:.0%} of the run")
        if self.without_mosaic:
            parts.append(f"no mosaic in the last {self.without_mosaic:.0%} of the epochs")
        return ", ".join(parts)


GENTLE = Recipe(
    "hyp.finetune-pruned.yaml",
    "AdamW",
    every_batch=True,
    average_epochs=1.0,
    longest_warmup=0.1,
    without_mosaic=0.2,
)
RECIPES = {
    "v6.2": Recipe("hyp.scratch-low.yaml", "SGD"),
    "short": replace(GENTLE, hyp="hyp.sparse.yaml"),  # four times the rate, for a model that has to change much
    "gentle": GENTLE,
}
DEFAULT = "gentle"
HURTING = "short"  # for a model that has lost accuracy
HURT = 0.95  # share of the unpruned model's mAP50 below which the gentle recipe is not enough
PUBLISHED = "v6.2"  # the recipe for hyperparameters that were made for YOLOv5's own schedule


def recipe_after(left: float, before: float) -> str:
    """The recipe for a pruned model of mAP50 ``left``, if the unpruned model has the mAP50 ``before``."""
    return HURTING if left < HURT * before else DEFAULT


EPOCHS_AT_HALF = 50  # of fine-tuning, for a network that has kept half of its operations
LEAST_EPOCHS, MOST_EPOCHS = 30, 150


def epochs_after(share_left: float) -> int:
    """Epochs of fine-tuning for a network that has kept this share of its operations, in multiples of 5.

    A rule of thumb: the deeper the cut, the longer a network improves (50 more epochs gave networks of a quarter of the
    operations 5 to 7 points of mAP50-95: PCB-Prune-YOLO, 2026).
    """
    epochs = 5 * round(EPOCHS_AT_HALF * 0.5 / max(share_left, 1e-3) / 5)
    return min(max(epochs, LEAST_EPOCHS), MOST_EPOCHS)
