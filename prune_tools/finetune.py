#!/usr/bin/env python3
"""Fine-tune a pruned model: train.py, with its defaults set for a pruned checkpoint.

    python prune_tools/finetune.py --data data/mask.yaml --weights runs/val/exp/pruned_model.pt \\
        --batch-size 64 --epochs 100 --imgsz 320
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from utils.cli import run_training_command
from utils.config import TrainOptions, build, option
from utils.files import ROOT, newest_file
from utils.log import LOGGER

REMEDY = "run prune_tools/prune.py first, or name it with --weights"
NEXT_STEP = (
    "Next: python val.py --weights {best} --data {data} --imgsz {imgsz}"
    "\n  or: python detect.py --weights {best} --source IMAGES --imgsz {imgsz}"
)


@dataclass
class FinetuneOptions(TrainOptions):
    """Options of train.py with other defaults."""

    weights: str = option("", "pruned checkpoint; default: the newest pruned_model.pt below runs/val")
    epochs: int = option(100, "number of epochs")


def main(options: FinetuneOptions) -> Any:
    """Fine-tune; returns what train.main returns."""
    if not options.weights and not options.resume:
        options.weights = str(newest_file(ROOT / "runs/val", "pruned_model.pt", REMEDY))
        LOGGER.info(f"Fine-tuning the newest pruned model, {options.weights}")
    return train.main(options, next_step=NEXT_STEP)


def run(**keywords: Any) -> FinetuneOptions:
    """Fine-tuning from Python, the flags as keywords."""
    options = build(FinetuneOptions, **keywords)
    main(options)
    return options


if __name__ == "__main__":
    run_training_command(main, FinetuneOptions, "Fine-tune a pruned YOLOv5 detector.")
