#!/usr/bin/env python3
"""Sparse training: train.py with a penalty on the batch-norm gammas of every prunable layer.

    python prune_tools/train_sparity.py --weights runs/train/exp/weights/best.pt --target-flops 0.5
    python prune_tools/train_sparity.py --weights runs/train/exp/weights/best.pt --st --sr 0.0005 --epochs 100

The first, the default, brings to exactly zero the channels whose removal halves the operations, with the start weights
as teacher. The second is the published penalty, L1 on all gammas. Data set and image size are those of the training of
the weights. best.pt is the best among the epochs that have reached the goal, or the sparsest epoch if none has.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.sparsity.options import SparseOptions
from utils.callbacks import Callbacks
from utils.commands.cli import run_training_command
from utils.commands.options import build
from utils.log import log_as_command

if TYPE_CHECKING:
    from utils.training.interfaces import Results


def main(options: SparseOptions, callbacks: Callbacks | None = None) -> Results | None:
    """Train with the penalty; returns what train.main returns."""
    from prune_tools.sparsity.training import train_sparsely

    return train_sparsely(options, callbacks or Callbacks())


def run(**keywords: Any) -> SparseOptions:
    """Sparse training from Python, the flags as keywords."""
    log_as_command()
    options = build(SparseOptions, **keywords)
    main(options)
    return options


def cli() -> None:
    """Run the command with the words of the command line."""
    run_training_command(main, SparseOptions, "Sparse training with a penalty on batch-norm gammas.")


if __name__ == "__main__":
    cli()
