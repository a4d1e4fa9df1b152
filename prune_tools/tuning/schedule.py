"""A recipe at work: the plug-ins of training that continues from a trained model."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from models.loading import read_record, with_record_of
from prune_tools.tuning.distillation import Distillation
from prune_tools.tuning.options import NO_TEACHER, RecipeOptions, with_recipe
from prune_tools.tuning.recipes import PUBLISHED, RECIPES, Recipe
from utils.callbacks import Plugin
from utils.dataset.classes import is_single_class
from utils.dataset.description import check_dataset
from utils.log import LOGGER
from utils.training.optim import DECAYED
from utils.training.resume import Resumption, resume_options
from utils.training.state import NOMINAL_BATCH_SIZE, TrainingState

LONGEST_AVERAGE = 10_000  # optimizer steps; that of YOLOv5
SomeOptions = TypeVar("SomeOptions", bound=RecipeOptions)


def start_or_resume(options: SomeOptions) -> tuple[SomeOptions, Resumption[SomeOptions] | None]:
    """The options with recipe, teacher, data set and image size filled in, or those of the run that they resume."""
    if options.resume and not options.evolve:
        resumption = resume_options(options)
        return resumption.options, resumption
    return with_recipe(with_teacher(with_record_of(options.weights, options))), None


def with_teacher(options: SomeOptions) -> SomeOptions:
    """The options with the teacher filled in: the default one if it knows the classes of the data set."""
    if options.teacher == NO_TEACHER:
        return replace(options, teacher="")
    teacher = "" if options.teacher else options.default_teacher()
    if not teacher:
        return options
    names = read_record(teacher).names
    class_count = check_dataset(options.data, splits=())["nc"]
    if len(names) != (1 if options.single_cls or is_single_class(names, class_count) else class_count):
        LOGGER.info(f"{teacher} has {len(names)} classes and {options.data} has {class_count}: no teacher is used")
        return options
    LOGGER.info(f"{teacher} is the teacher, too (--teacher names another one, or none)")
    return replace(options, teacher=teacher)


def plugins_of(options: RecipeOptions) -> list[Plugin]:
    """The schedule and, if there is one, the teacher of ``options``, which ``with_recipe`` has made.

    A resumed run of an earlier version has no recipe on record: it had YOLOv5's schedule.
    """
    plugins: list[Plugin] = [Schedule(RECIPES[options.recipe or PUBLISHED])]
    if options.teacher not in ("", NO_TEACHER):
        plugins.append(Distillation(options.teacher, options.teacher_gain))
    return plugins


class Schedule(Plugin):
    """Applies a recipe to a run; that of YOLOv5's own schedule changes nothing."""

    name = "recipe"

    def __init__(self, recipe: Recipe) -> None:
        """Keep the recipe."""
        self.recipe = recipe

    def on_training_ready(self, state: TrainingState) -> None:
        """Set accumulation, warm-up and weight average of the run, new or resumed."""
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
    """Stop accumulating; weight decay, given per 64 images of a step, is scaled to the fewer images."""
    state.nominal_batch_size = state.batch_size
    state.accumulate = 1
    decay = state.hyp["weight_decay"] * state.batch_size / NOMINAL_BATCH_SIZE
    state.optimizer.param_groups[DECAYED]["weight_decay"] = decay
