"""The work of finetune.py."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import train
from models.exporters.options import ExportOptions
from prune_tools.tuning.activation import with_activation
from prune_tools.tuning.keep_start import KeepStart
from prune_tools.tuning.options import FinetuneOptions
from prune_tools.tuning.schedule import plugins_of, start_or_resume
from utils.callbacks import Callbacks
from utils.commands.next_steps import following
from utils.detection.options import DetectOptions
from utils.log import LOGGER
from utils.storage.files import WORK, newest_file
from utils.training.interfaces import Results
from utils.validation.options import ValOptions

REMEDY = "run prune_tools/prune.py first, or name it with --weights"


def fine_tune(options: FinetuneOptions, callbacks: Callbacks) -> Results | None:
    """Fine-tune; returns what train.main returns."""
    if not options.resume and not options.weights:
        options = replace(options, weights=str(newest_file(WORK / "runs/val", "pruned_model.pt", REMEDY)))
        LOGGER.info(f"Fine-tuning the newest pruned model, {options.weights}")
    options, resumption = start_or_resume(options)
    plugins = plugins_of(options)
    original = ""
    if options.activation and not options.resume:
        original = options.weights
        options = with_activation(options)
    if not (options.noval or options.evolve or options.nosave):
        plugins.append(KeepStart(options, original))
    with callbacks.added(*plugins):
        return train.main(options, callbacks, next_steps=steps_after_finetuning, resumption=resumption)


def steps_after_finetuning(best: str, options: FinetuneOptions, recorded: Collection[str] = ()) -> list[str]:
    """Export, validation and detection; arguments as NextSteps of ``utils.training.trainer``."""
    return [
        following("export.py", ExportOptions, options, recorded=recorded, weights=best, include=["onnx"]),
        following("val.py", ValOptions, options, recorded=recorded, weights=best),
        following("detect.py", DetectOptions, options, recorded=recorded, weights=best),
    ]
