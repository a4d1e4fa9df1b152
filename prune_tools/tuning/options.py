"""Options of training that continues from a trained model: recipe and teacher, and those of finetune.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from prune_tools.planning.options import RUNTIMES
from prune_tools.tuning.recipes import DEFAULT, HURTING, PUBLISHED, RECIPES
from utils.commands.options import FOLDER, LARGEST_IMAGE, OPEN, option
from utils.errors import InputError, short_repr
from utils.log import LOGGER
from utils.training.options import TrainOptions

TEACHER_GAIN = 2.0
ACTIVATIONS = {  # by name, as models.activations reads them
    "relu": "nn.ReLU()",
    "relu6": "nn.ReLU6()",
    "leakyrelu": "nn.LeakyReLU(0.1)",
    "hardswish": "nn.Hardswish()",
    "silu": "nn.SiLU()",
}
ANGULAR = ("relu", "relu6", "leakyrelu")  # other than SiLU at many values
REFIT_IMAGES = 192
NO_TEACHER = "none"  # --teacher that switches a default off


@dataclass(frozen=True)
class RecipeOptions(TrainOptions):
    """Options of train.py, with those that a recipe sets left open, and those of recipe and teacher."""

    keeps_anchors: ClassVar[bool] = True
    group: ClassVar[str] = "schedule and teacher"

    data: str = option("", "data set YAML; default: that of the training of --weights", on_resume=OPEN, path=True)
    imgsz: int = option(
        None, "image size in pixels, longer side; default: that of the training of --weights, else 640", "--img",
        "--img-size", type=int, at_least=1, at_most=LARGEST_IMAGE,
    )  # fmt: skip
    hyp: str = option("", "hyperparameter YAML; default: the recipe's", on_resume=FOLDER, path=True, handed_on=False)
    optimizer: str = option("", "optimizer; default: the recipe's", choices=["SGD", "Adam", "AdamW"], handed_on=False)
    recipe: str = option(
        "", f"schedule; default: {DEFAULT}, or {PUBLISHED} with a --hyp of your own", choices=list(RECIPES),
        handed_on=False,
    )  # fmt: skip
    teacher: str = option(
        "", "checkpoint of the unpruned model, whose outputs become soft targets, or none; default: none",
        on_resume=OPEN, path=True, handed_on=False,
    )  # fmt: skip
    teacher_gain: float = option(
        TEACHER_GAIN,
        "weight of the distance to the teacher, next to the loss of the labels",
        handed_on=False,
        above=0,
        at_most=1000,
    )

    def __post_init__(self) -> None:
        """Refuse a gain without a teacher."""
        super().__post_init__()
        if self.teacher_gain != TEACHER_GAIN and (self.teacher or self.default_teacher()) in ("", NO_TEACHER):
            raise InputError(f"--teacher-gain {self.teacher_gain:g} only acts with --teacher: leave it out")

    def default_teacher(self) -> str:
        """The teacher if --teacher is not given; '' for none."""
        return ""

    def default_recipe(self) -> str:
        """The recipe if neither --recipe nor --hyp is given."""
        return DEFAULT


@dataclass(frozen=True)
class FinetuneOptions(RecipeOptions):
    """Options of train.py with other defaults, and those of recipe and teacher."""

    script: ClassVar[str] = "prune_tools/finetune.py"
    group: ClassVar[str] = "fine-tuning"

    weights: str = option(
        "", "pruned checkpoint; default: the newest pruned_model.pt below runs/val", on_resume=OPEN, path=True,
        handed_on=False,
    )  # fmt: skip
    epochs: int = option(100, "number of epochs", handed_on=False, at_least=1)
    activation: str = option(
        "",
        "first replace the activation of all convolution blocks by this one, which fewer or faster operations compute",
        choices=list(ACTIVATIONS),
        handed_on=False,
    )
    runtime: str = option(
        RUNTIMES[0], "where the time that --activation saves is measured", choices=RUNTIMES, handed_on=False
    )
    reconstruct: int = option(
        REFIT_IMAGES,
        "with --activation: training images on which the layers are re-fitted to the network as it was; 0 = off",
        at_least=0,
        handed_on=False,
    )

    def __post_init__(self) -> None:
        """Refuse activations that are not offered."""
        super().__post_init__()
        if self.activation not in ("", *ACTIVATIONS):
            raise InputError(
                f"--activation {short_repr(self.activation)} is not offered: expected one of {', '.join(ACTIVATIONS)}"
            )
        for name, default in (("runtime", RUNTIMES[0]), ("reconstruct", REFIT_IMAGES)):
            if getattr(self, name) != default and not self.activation:
                raise InputError(f"--{name} {getattr(self, name)} only acts with --activation: leave it out")

    def default_recipe(self) -> str:
        """The recipe of a model that has lost accuracy where the activation has another shape than SiLU."""
        return HURTING if self.activation in ANGULAR else DEFAULT


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
    hyp, optimizer = options.hyp or str(recipe.hyp_file), options.optimizer or recipe.optimizer
    LOGGER.info(f"Recipe {name}: {optimizer} with {hyp}; {recipe.summary()}")
    return replace(options, recipe=name, hyp=hyp, optimizer=optimizer)
