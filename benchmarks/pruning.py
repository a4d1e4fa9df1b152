#!/usr/bin/env python3
"""Seconds of prune.py and of a sweep, compared with their limits.

    python benchmarks/pruning.py --data data/mask.yaml --weights runs/train/exp4/weights/best.pt --imgsz 320

Without --weights or --data, networks with random weights and drawn pictures are used; a sweep takes as long with them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, as_table
from benchmarks.material import demo_data, random_checkpoint
from prune_tools import prune, sweep
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.log import LOGGER, warnings_only

LIMITS = {"yolov5n": 5.0, "yolov5x": 20.0}  # seconds of prune.py --noval --reconstruct 0, after imports
SWEEP_LIMIT = 180.0  # seconds of a sweep of 20 ratios on SWEEP_IMAGES images
SWEEP_IMAGES = 134


@dataclass
class PruningBenchmarkOptions:
    """Options of the benchmark."""

    data: str = option("", "data set YAML; default: demo pictures, drawn for this")
    weights: str = option("", "checkpoint to sweep; default: YOLOv5n with random weights")
    imgsz: int = option(320, "image size in pixels")
    ratios: int = option(20, "points of the sweep; 0 leaves it out")


def _timed(subject: str, limit: float, work: Callable[[], object]) -> Figure:
    """Return the wall time of ``work`` and its limit; the note has the CPU time, for a busy machine."""
    with warnings_only():
        start = time.perf_counter()
        cpu_start = time.process_time()
        work()
        seconds = time.perf_counter() - start
        cpu_seconds = time.process_time() - cpu_start
    note = f"the limit; ours used {cpu_seconds:.3g} s of CPU time"
    return Figure(subject, "s", seconds, limit, limit / seconds, 0.0, 1.0, note)


def measure(options: PruningBenchmarkOptions | None = None) -> list[Figure]:
    """Return the figures of pruning."""
    options = options or PruningBenchmarkOptions()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or demo_data(Path(folder))
        common: dict[str, Any] = {"data": data, "imgsz": options.imgsz, "device": "cpu", "project": folder}
        for name, limit in LIMITS.items():
            weights = str(random_checkpoint(Path(folder), name))
            call = partial(prune.run, weights=weights, reconstruct=0, noval=True, **common)
            figures.append(_timed(f"prune.py --noval --reconstruct 0, {name}", limit, call))
        if options.ratios:
            weights = options.weights or str(Path(folder) / "yolov5n.pt")
            call = partial(
                sweep.run, weights=weights, ratios=[options.ratios], images=SWEEP_IMAGES, name="sweep", **common
            )
            figures.append(_timed(f"sweep.py, {options.ratios} ratios, {SWEEP_IMAGES} images", SWEEP_LIMIT, call))
    return figures


def main(options: PruningBenchmarkOptions) -> list[Figure]:
    """Measure and print the table."""
    figures = measure(options)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(PruningBenchmarkOptions, "Seconds of pruning and of a sweep.")))
