#!/usr/bin/env python3
"""Fine-tune a pruned model: train.py with a schedule for short runs, and the unpruned model as teacher.

    python prune_tools/finetune.py --weights runs/val/exp/pruned_model.pt --teacher runs/train/exp/weights/best.pt

Without --teacher it learns from the labels alone. --recipe short is for a model that pruning has hurt, --recipe v6.2
brings YOLOv5's own schedule back. best.pt is never worse than the start.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.tuning.options import FinetuneOptions
from utils.callbacks import Callbacks
from utils.commands.cli import run_training_command
from utils.commands.options import build
from utils.log import log_as_command

if TYPE_CHECKING:
    from utils.training.interfaces import Results


def main(options: FinetuneOptions, callbacks: Callbacks | None = None) -> Results | None:
    """Fine-tune; returns what train.main returns."""
    from prune_tools.tuning.finetuning import fine_tune

    return fine_tune(options, callbacks or Callbacks())


def run(**keywords: Any) -> FinetuneOptions:
    """Fine-tuning from Python, the flags as keywords."""
    log_as_command()
    options = build(FinetuneOptions, **keywords)
    main(options)
    return options


def cli() -> None:
    """Run the command with the words of the command line."""
    run_training_command(main, FinetuneOptions, "Fine-tune a pruned YOLOv5 detector.")


if __name__ == "__main__":
    cli()
