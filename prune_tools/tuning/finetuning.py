"""The work of finetune.py."""

from __future__ import annotations

from dataclasses import replace

import train
from models.exporters.options import ExportOptions
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
    options, resumption = start_or_resume(options)
    if resumption is None and not options.weights:
        options = replace(options, weights=str(newest_file(WORK / "runs/val", "pruned_model.pt", REMEDY)))
        LOGGER.info(f"Fine-tuning the newest pruned model, {options.weights}")
    plugins = plugins_of(options)
    if not (options.noval or options.evolve or options.nosave):
        plugins.append(KeepStart(options))
    with callbacks.added(*plugins):
        return train.main(options, callbacks, next_steps=steps_after_finetuning, resumption=resumption)


def steps_after_finetuning(best: str, options: FinetuneOptions) -> list[str]:
    """Validation, detection, and export."""
    return [
        following("val.py", ValOptions, options, weights=best),
        following("detect.py", DetectOptions, options, weights=best, source="IMAGES"),
        following("export.py", ExportOptions, options, weights=best, include=["onnx"]),
    ]
