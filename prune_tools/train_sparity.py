#!/usr/bin/env python3
"""Sparse training: train.py with an L1 penalty on the batch-norm gammas of every prunable layer.

    python prune_tools/train_sparity.py --st --sr 0.0005 --weights runs/train/exp/weights/best.pt \\
        --cfg models/yolov5n_mask.yaml --data data/mask.yaml --batch-size 64 --epochs 100 --imgsz 320

Prune last.pt, not best.pt: the best fitness is reached early, while the gammas are still dense.
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
from utils.errors import InputError

BETA_RATE = 10  # the original tools' penalty on beta, in units of --sr

NEXT_STEP = (
    "Next: python prune_tools/prune.py --weights {last} --percent 0.4 --data {data} --imgsz {imgsz}"
    "\n(last.pt has the sparsest gammas; best.pt is usually an early, still dense epoch)"
)


@dataclass
class SparseOptions(TrainOptions):
    """Options of train.py and those of the penalty."""

    epochs: int = option(100, "number of epochs")
    st: bool = option(True, "apply the penalty; --no-st trains as train.py does")
    sr: float = option(0.0005, "penalty rate: sr * sign(gamma) is added to the gradient of each batch")
    sr_beta: float | None = option(None, "penalty rate on beta, 0 = off; default: 10 times --sr", type=float)

    def __post_init__(self) -> None:
        """Refuse impossible rates, beside what train.py refuses."""
        super().__post_init__()
        for flag, rate in (("--sr", self.sr), ("--sr-beta", self.sr_beta)):
            if rate is not None and not 0 <= rate < 1e3:
                raise InputError(f"{flag} must be a number of at least 0, got {rate}")


def main(options: SparseOptions) -> Any:
    """Train with the penalty; returns what train.main returns."""
    from prune_tools.sparsity import SparsityPenalty
    from utils.callbacks import Callbacks

    callbacks = Callbacks()
    if options.resume and not options.evolve:
        from utils.resume import resume_options

        options, _ = resume_options(options)  # sr and st are those of the interrupted run
    if options.st:
        rate_on_beta = BETA_RATE * options.sr if options.sr_beta is None else options.sr_beta
        SparsityPenalty(options.sr, rate_on_beta).register(callbacks)
    return train.main(options, callbacks, next_step=NEXT_STEP)


def run(**keywords: Any) -> SparseOptions:
    """Sparse training from Python, the flags as keywords."""
    options = build(SparseOptions, **keywords)
    main(options)
    return options


if __name__ == "__main__":
    run_training_command(main, SparseOptions, "Sparse training with an L1 penalty on batch-norm gammas.")
