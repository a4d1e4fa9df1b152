#!/usr/bin/env python3
"""Fine-tune a pruned model: train.py with a schedule for short runs, and the unpruned model as teacher.

    python prune_tools/finetune.py --data data/mask.yaml --weights runs/val/exp/pruned_model.pt \\
        --teacher runs/train/exp/weights/best.pt --batch-size 64 --epochs 100 --imgsz 320

Without --teacher it learns from the labels alone. --recipe v6.2 brings YOLOv5's own schedule back.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from prune_tools.recipes import DEFAULT, RECIPES
from utils.cli import run_training_command
from utils.config import TrainOptions, build, option
from utils.errors import InputError
from utils.files import ROOT, newest_file
from utils.log import LOGGER

if TYPE_CHECKING:
    from utils.callbacks import Callbacks

REMEDY = "run prune_tools/prune.py first, or name it with --weights"
NEXT_STEP = (
    "Next: python val.py --weights {best} --data {data} --imgsz {imgsz}"
    "\n  or: python detect.py --weights {best} --source IMAGES --imgsz {imgsz}"
)
PUBLISHED = "v6.2"  # the recipe for hyperparameters that were made for YOLOv5's own schedule


@dataclass
class FinetuneOptions(TrainOptions):
    """Options of train.py with other defaults, and those of recipe and teacher."""

    weights: str = option("", "pruned checkpoint; default: the newest pruned_model.pt below runs/val")
    epochs: int = option(100, "number of epochs")
    hyp: str = option("", "hyperparameter YAML; default: the recipe's")
    optimizer: str = option("", "optimizer; default: the recipe's", choices=["SGD", "Adam", "AdamW"])
    recipe: str = option(
        "", f"schedule; default: {DEFAULT}, or {PUBLISHED} with a --hyp of your own", choices=list(RECIPES)
    )
    teacher: str = option("", "checkpoint of the unpruned model, whose outputs become soft targets; default: none")
    teacher_gain: float = option(2.0, "weight of the distance to the teacher beside the loss of the labels")

    def __post_init__(self) -> None:
        """Refuse an impossible gain, beside what train.py refuses."""
        super().__post_init__()
        if not 0 < self.teacher_gain < 1e3:
            raise InputError(f"--teacher-gain must be a number above 0, got {self.teacher_gain}")


def with_recipe(options: FinetuneOptions) -> FinetuneOptions:
    """The options with what the recipe decides filled in; what the user gave stays.

    Raises:
        InputError: an optimizer without hyperparameters for it.
    """
    name = options.recipe or (PUBLISHED if options.hyp else DEFAULT)
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if options.optimizer not in ("", recipe.optimizer) and not options.hyp:
        raise InputError(
            f"--optimizer {options.optimizer}: the learning rate of recipe {name} is for {recipe.optimizer}; "
            "give --hyp with one for yours"
        )
    chosen = replace(
        options, recipe=name, hyp=options.hyp or str(recipe.hyp_file), optimizer=options.optimizer or recipe.optimizer
    )
    LOGGER.info(f"Recipe {name}: {chosen.optimizer} with {chosen.hyp}; {recipe.summary()}")
    return chosen


def main(options: FinetuneOptions, callbacks: Callbacks | None = None) -> Any:
    """Fine-tune; returns what train.main returns."""
    from utils.callbacks import Callbacks

    callbacks = callbacks or Callbacks()
    if options.resume and not options.evolve:
        from utils.resume import resume_options

        options, _ = resume_options(options)  # recipe and teacher are those of the interrupted run
    else:
        options = with_recipe(options)
        if not options.weights:
            options.weights = str(newest_file(ROOT / "runs/val", "pruned_model.pt", REMEDY))
            LOGGER.info(f"Fine-tuning the newest pruned model, {options.weights}")
    RECIPES[options.recipe].register(callbacks)
    if options.teacher:
        from prune_tools.distillation import Distillation

        Distillation(options.teacher, options.teacher_gain).register(callbacks)
    return train.main(options, callbacks, next_step=NEXT_STEP)


def run(**keywords: Any) -> FinetuneOptions:
    """Fine-tuning from Python, the flags as keywords."""
    options = build(FinetuneOptions, **keywords)
    main(options)
    return options


if __name__ == "__main__":
    run_training_command(main, FinetuneOptions, "Fine-tune a pruned YOLOv5 detector.")
