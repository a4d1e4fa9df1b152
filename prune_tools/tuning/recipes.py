"""Named schedules for training that continues from a trained model: sparse training by polarize, and fine-tuning.

YOLOv5's schedule is made for runs of hundreds of epochs that start far from their goal. A trained model starts near it
and has few epochs: accumulating to 64 images leaves it few optimizer steps, and a warm-up that moves biases at ten
times the rate destroys what is left of its accuracy. What a recipe changes besides hyperparameters is given in epochs
and shares of the run, so that it means the same for small and large data sets, short and long runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, TypeVar

from utils.commands.options import FOLDER, OPEN, option
from utils.errors import InputError, short_repr
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.training.options import TrainOptions


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
        """What it changes besides hyperparameters, in words."""
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
TEACHER_GAIN = 2.0
HURT = 0.95  # share of the unpruned model's mAP50 below which the gentle recipe is not enough
PUBLISHED = "v6.2"  # the recipe for hyperparameters that were made for YOLOv5's own schedule


@dataclass
class RecipeOptions(TrainOptions):
    """Options of train.py, with those that a recipe sets left open, and those of recipe and teacher."""

    keeps_anchors: ClassVar[bool] = True

    hyp: str = option("", "hyperparameter YAML; default: the recipe's", on_resume=FOLDER, path=True, handed_on=False)
    optimizer: str = option("", "optimizer; default: the recipe's", choices=["SGD", "Adam", "AdamW"], handed_on=False)
    recipe: str = option(
        "", f"schedule; default: {DEFAULT}, or {PUBLISHED} with a --hyp of your own", choices=list(RECIPES),
        handed_on=False,
    )  # fmt: skip
    teacher: str = option(
        "", "checkpoint of the unpruned model, whose outputs become soft targets; default: none", on_resume=OPEN,
        path=True, handed_on=False,
    )  # fmt: skip
    teacher_gain: float = option(
        TEACHER_GAIN,
        "weight of the distance to the teacher, next to the loss of the labels",
        handed_on=False,
        at_least=0,
        at_most=1000,
    )

    def __post_init__(self) -> None:
        """Check the gain, and what train.py checks."""
        super().__post_init__()
        if not 0 < self.teacher_gain < 1e3:
            raise InputError(f"--teacher-gain must be a number above 0, got {self.teacher_gain}")
        if self.teacher_gain != TEACHER_GAIN and not self.teacher:
            raise InputError(f"--teacher-gain {self.teacher_gain:g} only acts with --teacher: leave it out")

    def default_recipe(self) -> str:
        """The recipe if neither --recipe nor --hyp is given."""
        return DEFAULT


def recipe_after(left: float, before: float) -> str:
    """The recipe for a pruned model of mAP50 ``left``, if the unpruned model has the mAP50 ``before``."""
    return "short" if left < HURT * before else DEFAULT


Options = TypeVar("Options", bound=RecipeOptions)


def with_recipe(options: Options) -> Options:
    """The options with the recipe's settings filled in; what the user gave stays.

    Raises:
        InputError: an optimizer without hyperparameters for it.
    """
    name = options.recipe or (PUBLISHED if options.hyp else options.default_recipe())
    if name not in RECIPES:
        raise InputError(f"unknown recipe {short_repr(name)}: choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if options.optimizer not in ("", recipe.optimizer) and not options.hyp and name != PUBLISHED:
        raise InputError(
            f"--optimizer {options.optimizer}: the learning rate of recipe {name} is for {recipe.optimizer}; "
            "give --hyp with one for yours"
        )
    chosen = replace(
        options, recipe=name, hyp=options.hyp or str(recipe.hyp_file), optimizer=options.optimizer or recipe.optimizer
    )
    LOGGER.info(f"Recipe {name}: {chosen.optimizer} with {chosen.hyp}; {recipe.summary()}")
    return chosen
