"""Measure the weights that a run starts from, and restore them if no epoch beats them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import val
from models.loading import strip_optimizer
from utils.callbacks import Plugin
from utils.commands.options import AUTO_BATCH
from utils.errors import OtherClassesError
from utils.log import LOGGER
from utils.metrics import fitness
from utils.training.interfaces import Results
from utils.training.options import TrainOptions

NEGLIGIBLE = 5e-5  # loss of fitness that no table shows
SAFE_BATCH = 16  # images, while --batch-size -1 has not been resolved


def measure_start(options: TrainOptions) -> Results | None:
    """P, R, mAP50 and mAP50-95 of ``options.weights`` on the validation images.

    None without weights, and for weights of other classes.
    """
    if not options.weights:
        return None
    batch_size = SAFE_BATCH if options.batch_size == AUTO_BATCH else options.batch_size * 2
    LOGGER.info(f"Measuring {options.weights}, where this run starts...")
    with TemporaryDirectory() as folder:
        try:
            results, _, _ = val.run(
                options.data, options.weights, batch_size=batch_size, imgsz=options.imgsz,
                device=options.device.split(",")[0], single_cls=options.single_cls, workers=options.workers,
                plots=False, save_dir=Path(folder),
            )  # fmt: skip
        except OtherClassesError as error:
            LOGGER.info(f"The start weights cannot be measured ({error})")
            return None
    return results[:4]


def start_map50(options: TrainOptions) -> float:
    """mAP50 of the weights that a run starts from, 0 where they cannot be measured."""
    results = measure_start(options)
    return results[2] if results else 0.0


class KeepStart(Plugin):
    """Puts the start weights into best.pt if no epoch is as good."""

    name = "start"

    def __init__(self, options: TrainOptions, original: str = "") -> None:
        """``options`` of the run; nothing is measured yet.

        ``original`` are the weights that were changed to make those of the run, for comparison.
        """
        self.options = options
        self.original = original
        self.results: Results | None = None

    def on_pretrain_routine_end(self) -> None:
        """Measure the start, once all inputs of the run have been checked."""
        before = measure_start(replace(self.options, weights=self.original)) if self.original else None
        self.results = measure_start(self.options)
        if before is not None and self.results is not None:
            LOGGER.info(
                f"Before fine-tuning, {self.options.weights} has mAP50 {self.results[2]:.3f} and mAP50-95 "
                f"{self.results[3]:.3f}; {self.original} has {before[2]:.3f} and {before[3]:.3f}"
            )

    def on_train_end(self, last: Path, best: Path, plots: bool, epoch: int, results: Sequence[float]) -> None:
        """Compare ``results``, those of ``best``, with the start's by the fitness that chooses best.pt."""
        if self.results is None:
            return
        if _merit(self.results) <= _merit(results) + NEGLIGIBLE:
            return
        LOGGER.warning(
            f"WARNING: no epoch reached the accuracy of the start weights (mAP50 {results[2]:.3f} after "
            f"{self.results[2]:.3f}, mAP50-95 {results[3]:.3f} after {self.results[3]:.3f}): best.pt holds the start "
            "weights; train for more epochs, or with a lower lr0"
        )
        strip_optimizer(self.options.weights, best)


def _merit(results: Sequence[float]) -> float:
    """The fitness by which best.pt is chosen."""
    return float(fitness(np.array([results[:4]]))[0])
