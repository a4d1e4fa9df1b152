"""Recipes: how a trained model is trained on, by name: sparse training by polarize, and fine-tuning.

YOLOv5's schedule is made for runs of hundreds of epochs that start far from their goal. Such a model starts near it
and has few epochs: accumulating to 64 images leaves it few optimizer steps, and a warm-up that moves biases at ten
times the rate undoes what is left of its accuracy. What a recipe changes beside hyperparameters is stated in epochs and
shares of the run, so that it means the same for small and large data sets, short and long runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from utils.commands.options import FOLDER, OPEN, option
from utils.errors import InputError, short_repr
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.training.options import TrainOptions

if TYPE_CHECKING:
    from utils.callbacks import Callbacks
    from utils.training.state import TrainingState

LONGEST_AVERAGE = 10_000  # optimizer steps; that of YOLOv5


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run that together make its schedule.

    Attributes:
        hyp: file below data/hyps. optimizer: its name; the file's lr0 belongs to it.
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
        """Return where the hyperparameters lie."""
        return ROOT / "data/hyps" / self.hyp

    def summary(self) -> str:
        """Return what it changes beside hyperparameters, in words."""
        parts = ["a step after every batch" if self.every_batch else "gradients of 64 images for each step"]
        if self.average_epochs:
            parts.append(f"weights averaged over {self.average_epochs:g} epochs")
        if self.longest_warmup < 1:
            parts.append(f"warm-up at most {self.longest_warmup:.0%} of the run")
        if self.without_mosaic:
            parts.append(f"no mosaic in the last {self.without_mosaic:.0%} of the epochs")
        return ", ".join(parts)

    def register(self, callbacks: Callbacks) -> None:
        """Hang the recipe on the hooks of a run; one that is YOLOv5's schedule changes nothing."""
        schedule = Schedule(self)
        callbacks.register_action("on_training_ready", name="recipe", callback=schedule.on_training_ready)
        callbacks.register_action("on_train_epoch_start", name="recipe", callback=schedule.on_train_epoch_start)


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
HURT = 0.95  # share of the unpruned model's mAP50 that a model has at least if the gentle recipe is enough
PUBLISHED = "v6.2"  # the recipe for hyperparameters that were made for YOLOv5's own schedule


@dataclass
class RecipeOptions(TrainOptions):
    """Options of train.py, those that a recipe decides left open, and the teacher's."""

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
        "weight of the distance to the teacher beside the loss of the labels",
        handed_on=False,
        at_least=0,
        at_most=1000,
    )

    def __post_init__(self) -> None:
        """Refuse an impossible gain, beside what train.py refuses."""
        super().__post_init__()
        if not 0 < self.teacher_gain < 1e3:
            raise InputError(f"--teacher-gain must be a number above 0, got {self.teacher_gain}")
        if self.teacher_gain != TEACHER_GAIN and not self.teacher:
            raise InputError(f"--teacher-gain {self.teacher_gain:g} only acts beside --teacher: leave it out")

    def default_recipe(self) -> str:
        """The recipe where neither it nor hyperparameters are given."""
        return DEFAULT


def recipe_after(left: float, before: float) -> str:
    """The recipe for a pruned model with the mAP50 ``left``, where that of the unpruned one is ``before``."""
    return "short" if left < HURT * before else DEFAULT


Options = TypeVar("Options", bound=RecipeOptions)


def with_recipe(options: Options) -> Options:
    """The options with what the recipe decides filled in; what the user gave stays.

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


def register_recipe(options: RecipeOptions, callbacks: Callbacks) -> None:
    """Hang recipe and teacher of ``options`` (made by ``with_recipe``) on the hooks of a run.

    A run of an earlier version that is resumed has recorded no recipe: it had YOLOv5's schedule.
    """
    RECIPES[options.recipe or PUBLISHED].register(callbacks)
    if options.teacher:
        from prune_tools.tuning.distillation import Distillation

        Distillation(options.teacher, options.teacher_gain).register(callbacks)


class Schedule:
    """A recipe at work in one run."""

    def __init__(self, recipe: Recipe) -> None:
        """Keep the recipe; the run is known when training is ready."""
        self.recipe = recipe
        self.state: TrainingState

    def on_training_ready(self, state: TrainingState) -> None:
        """Set accumulation, warm-up and weight average of the run, fresh or resumed."""
        self.state = state
        if self.recipe.every_batch:
            step_every_batch(state)
        if self.recipe.longest_warmup < 1:
            limit = round(self.recipe.longest_warmup * len(state.loader) * state.epochs)
            state.warmup_batches = min(state.warmup_batches, limit)
        if self.recipe.average_epochs:
            steps = self.recipe.average_epochs * len(state.loader) / state.accumulate
            steps = min(max(steps, 1.0), LONGEST_AVERAGE)
            state.ema.set_decay(1 - 1 / steps, tau=steps)

    def on_train_epoch_start(self) -> None:
        """Close the mosaic when only the last epochs are left."""
        state = self.state
        last_epochs = round(self.recipe.without_mosaic * state.epochs)
        if state.epoch >= state.epochs - last_epochs and state.loader.dataset.close_mosaic():
            LOGGER.info(f"Mosaic off for the last {state.epochs - state.epoch} epochs")


def step_every_batch(state: TrainingState) -> None:
    """Stop accumulating; weight decay, given per 64 images of a step, is that of the fewer images."""
    from utils.training.optim import DECAYED
    from utils.training.state import NOMINAL_BATCH_SIZE

    state.nominal_batch_size, state.accumulate = state.batch_size, 1
    decay = state.hyp["weight_decay"] * state.batch_size / NOMINAL_BATCH_SIZE
    state.optimizer.param_groups[DECAYED]["weight_decay"] = decay
