#!/usr/bin/env python3
"""Cost of starting against the number of images: ten times the images must not take more than ten times as long.

    python benchmarks/scaling.py --few 10000 --many 100000

Measured: reading and checking all labels, reading their cache, the data set from the cache, the first batch of an
epoch, and the memory that a loader process has for itself after a while. For 100,000 images it needs a GB in the
temporary folder.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, as_table
from utils.cli import run_command
from utils.config import option, parse, read_hyperparameters
from utils.errors import InputError
from utils.files import ROOT
from utils.log import LOGGER

IMAGE_PIXELS = 64
BATCH = 16
SETTLED_BATCHES = 400  # of the loader processes, before their memory is looked at


@dataclass
class ScalingOptions:
    """Options of the benchmark."""

    few: int = option(5_000, "images of the small data set")
    many: int = option(50_000, "images of the large one")


def measure(few: int = 5_000, many: int = 50_000) -> list[Figure]:
    """One figure for each cost: for ``many`` images (ours) beside ``few``, and how much less than in proportion."""
    if not 0 < few < many:
        raise InputError(f"--few {few} and --many {many}: expected 0 < few < many")
    costs = []
    for count in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            write_split(Path(folder), count)
            with _fresh_process() as fresh:
                checking = fresh.submit(seconds_of_checking, Path(folder) / "images").result()
            with _fresh_process() as fresh:
                costs.append(checking | fresh.submit(start_costs, Path(folder) / "images").result())
    figures = []
    for (subject, small), large in zip(costs[0].items(), costs[1].values(), strict=True):
        unit, growth = ("MB", 1.0) if "memory" in subject else ("s", many / few)
        note = f"{few} images; the ratio is {growth:g} times that, over ours"
        figures.append(Figure(f"{subject}, {many} images", unit, large, small, growth * small / large, 0.0, None, note))
    return figures


def _fresh_process() -> ProcessPoolExecutor:
    """A process whose memory holds nothing else; a forked one would also wait for this one's OpenMP threads forever."""
    usual = (multiprocessing.get_start_method(),)
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_start_by, initargs=usual)


def _start_by(method: str) -> None:
    """Start loader processes by ``method``, where a spawned process spawns."""
    multiprocessing.set_start_method(method, force=True)


def write_split(folder: Path, count: int) -> None:
    """Write copies of one small picture, and label files of one to six boxes."""
    import cv2
    import numpy as np

    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "one.jpg"), rng.integers(0, 256, (IMAGE_PIXELS * 3 // 4, IMAGE_PIXELS, 3), np.uint8))
    lines = [
        f"{row % 3} " + " ".join(f"{value:.6f}" for value in rng.uniform(0.1, 0.4, 4)) + "\n" for row in range(600)
    ]
    for number in range(count):
        shutil.copyfile(folder / "one.jpg", folder / f"images/{number:06d}.jpg")
        start = number % 590
        (folder / f"labels/{number:06d}.txt").write_text("".join(lines[start : start + 1 + number % 6]))


def seconds_of_checking(images: Path) -> dict[str, float]:
    """What the first start with the images of a folder costs."""
    from utils.label_cache import load_labels

    start = time.perf_counter()
    load_labels(images)
    return {"checking images and labels": time.perf_counter() - start}


def start_costs(images: Path) -> dict[str, float]:
    """What later starts cost, until a training runs: seconds, and MB of a loader process."""
    from utils.dataloaders import create_dataloader
    from utils.label_cache import load_labels

    hyp = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
    costs: dict[str, float] = {}

    def timed(subject: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        costs[subject] = time.perf_counter() - start
        return result

    timed("reading the label cache", lambda: load_labels(images))
    loader, _ = timed(
        "data set and loader",
        lambda: create_dataloader(
            images, IMAGE_PIXELS, BATCH, 32, hyp=hyp, augment=True, cache="none", shuffle=True, workers=1
        ),
    )
    batches = timed("first batch of an epoch", lambda: _begun(loader))
    for _ in zip(range(SETTLED_BATCHES), batches, strict=False):
        pass
    memory = [_own_megabytes(worker.pid) for worker in getattr(batches, "_workers", [])]
    if memory and all(memory):
        costs["memory that a loader process has for itself"] = max(memory)
    return costs


def _begun(loader: Any) -> Any:
    """The iterator of an epoch whose first batch is there."""
    batches = iter(loader)
    next(batches)
    return batches


def _own_megabytes(process: int) -> float:
    """Memory that a process shares with no other, MB; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) * 1024 / 1e6


def main(options: ScalingOptions) -> list[Figure]:
    """Measure and print the table."""
    figures = measure(options.few, options.many)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(ScalingOptions, "Cost of starting against the number of images.")))
