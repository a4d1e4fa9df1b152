#!/usr/bin/env python3
"""Fine-tune a pruned model: train.py with a schedule for short runs, and the unpruned model as teacher.

    python prune_tools/finetune.py --data data/mask.yaml --weights runs/val/exp/pruned_model.pt \\
        --teacher runs/train/exp/weights/best.pt --batch-size 64 --epochs 100 --imgsz 320

Without --teacher it learns from the labels alone. --recipe short is for a model that pruning has hurt, --recipe v6.2
brings YOLOv5's own schedule back. best.pt is never worse than the start.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from prune_tools.tuning.recipes import RecipeOptions, with_recipe
from utils.commands.cli import run_training_command
from utils.commands.next_steps import following
from utils.commands.options import OPEN, build, option
from utils.log import LOGGER
from utils.storage.files import ROOT, newest_file

if TYPE_CHECKING:
    from utils.callbacks import Callbacks

REMEDY = "run prune_tools/prune.py first, or name it with --weights"


@dataclass
class FinetuneOptions(RecipeOptions):
    """Options of train.py with other defaults, and those of recipe and teacher."""

    script: ClassVar[str] = "prune_tools/finetune.py"

    weights: str = option(
        "", "pruned checkpoint; default: the newest pruned_model.pt below runs/val", on_resume=OPEN, path=True,
        handed_on=False,
    )  # fmt: skip
    epochs: int = option(100, "number of epochs", handed_on=False, at_least=1)


def main(options: FinetuneOptions, callbacks: Callbacks | None = None) -> Any:
    """Fine-tune; returns what train.main returns."""
    from prune_tools.tuning.schedule import plugins_of
    from utils.callbacks import Callbacks

    callbacks = callbacks or Callbacks()
    resumption = None
    if options.resume and not options.evolve:
        from utils.training.resume import resume_options

        resumption = resume_options(options)
        options = resumption.options  # recipe and teacher are those of the interrupted run
    else:
        options = with_recipe(options)
        if not options.weights:
            options.weights = str(newest_file(ROOT / "runs/val", "pruned_model.pt", REMEDY))
            LOGGER.info(f"Fine-tuning the newest pruned model, {options.weights}")
    for plugin in plugins_of(options):
        callbacks.add(plugin)
    if not (options.noval or options.evolve or options.nosave):
        from prune_tools.tuning.keep_start import KeepStart

        callbacks.add(KeepStart(options))
    return train.main(options, callbacks, next_steps=steps_after_finetuning, resumption=resumption)


def steps_after_finetuning(best: str, options: FinetuneOptions) -> list[str]:
    """Validation, detection, and the export that all of it was for."""
    from detect import DetectOptions
    from export import ExportOptions
    from val import ValOptions

    return [
        following("val.py", ValOptions, options, weights=best),
        following("detect.py", DetectOptions, options, weights=best, source="IMAGES"),
        following("export.py", ExportOptions, options, weights=best, include=["onnx"]),
    ]


def run(**keywords: Any) -> FinetuneOptions:
    """Fine-tuning from Python, the flags as keywords."""
    options = build(FinetuneOptions, **keywords)
    main(options)
    return options


if __name__ == "__main__":
    run_training_command(main, FinetuneOptions, "Fine-tune a pruned YOLOv5 detector.")
