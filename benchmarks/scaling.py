#!/usr/bin/env python3
"""Cost of starting against the number of images: ten times the images must not take more than ten times as long.

    python benchmarks/scaling.py --few 10000 --many 100000

Measured: reading and checking all labels (once), reading their cache, the data set from the cache, the first batch of
an epoch, and the memory that a loader process has for itself when it has seen the labels of all images (medians of
several starts); and the images per second of more and more loader processes. For 100,000 images it needs a GB in the
temporary folder.
"""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
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

from benchmarks.figures import Figure, as_table, compare_seconds, in_turns
from benchmarks.material import demo_data
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.training.hyperparameters import read_hyperparameters

IMAGE_PIXELS = 64
BATCH = 16
SETTLED_BATCHES = 100  # of the loader processes, before their memory is looked at
SECONDS_GOAL = 0.9  # the least ratio wanted: a tenth more than in proportion is left to noise
MEMORY_GOAL = 0.67  # and for memory, which should not grow at all, a half
WORKERS = (1, 2, 4, 8, 16)  # as many of them as there are processor cores
THROUGHPUT_PIXELS, THROUGHPUT_EPOCHS = 320, 3


@dataclass
class ScalingOptions:
    """Options of the benchmark."""

    few: int = option(10_000, "images of the small data set")
    many: int = option(100_000, "images of the large one")
    repetitions: int = option(3, "starts, and rounds of loading")


def measure(few: int = 10_000, many: int = 100_000, repetitions: int = 3) -> list[Figure]:
    """A figure for each cost: for ``many`` images (ours) beside ``few``, and how much less than in proportion.

    And one for each number of loader processes.
    """
    if not 0 < few < many:
        raise InputError(f"--few {few} and --many {many}: expected 0 < few < many")
    figures = []
    small, large = (_costs(count, repetitions) for count in (few, many))
    for subject, before in small.items():
        memory = "memory" in subject
        unit, growth, goal = ("MB", 1.0, MEMORY_GOAL) if memory else ("s", many / few, SECONDS_GOAL)
        ours = large[subject]
        note = f"{few} images; the ratio is {growth:g} times that, over ours"
        figures.append(Figure(f"{subject}, {many} images", unit, ours, before, growth * before / ours, 0.0, goal, note))
    return [*figures, *throughput(repetitions)]


def _costs(count: int, repetitions: int) -> dict[str, float]:
    """Seconds and MB for ``count`` images, by subject: medians, but checking once."""
    with tempfile.TemporaryDirectory() as folder:
        write_split(Path(folder), count)
        with _fresh_process() as fresh:
            costs = fresh.submit(seconds_of_checking, Path(folder) / "images").result()
        starts = []
        for _ in range(repetitions):
            with _fresh_process() as fresh:
                starts.append(fresh.submit(start_costs, Path(folder) / "images").result())
    return costs | {subject: statistics.median(start[subject] for start in starts) for subject in starts[0]}


def throughput(repetitions: int) -> list[Figure]:
    """Images per second of wall time of loader processes, images in memory, beside one of them."""
    with tempfile.TemporaryDirectory() as folder, _fresh_process() as fresh:
        seconds, count = fresh.submit(loading_seconds, demo_data(Path(folder)), repetitions).result()
    return [
        compare_seconds(
            f"loading with {workers} loader processes, {THROUGHPUT_PIXELS} px, wall time", values, seconds[WORKERS[0]],
            None, f"{WORKERS[0]} loader process", count, "images/s",
        )
        for workers, values in seconds.items()
    ]  # fmt: skip


def loading_seconds(data: str, repetitions: int) -> tuple[dict[int, list[float]], int]:
    """Seconds of a few epochs by number of loader processes, in turns; and the images of those epochs."""
    from utils.checks import check_dataset
    from utils.dataloaders import create_dataloader
    from utils.resources import usable_cores

    hyp = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
    calls: dict[int, Callable[[], None]] = {}
    for workers in [number for number in WORKERS if number <= max(usable_cores(), WORKERS[0])]:
        loader, dataset = create_dataloader(
            check_dataset(data)["train"], THROUGHPUT_PIXELS, BATCH, 32, hyp=hyp, augment=True, cache="ram",
            shuffle=True, workers=workers,
        )  # fmt: skip

        def epochs(loader: Any = loader) -> None:
            for _ in range(THROUGHPUT_EPOCHS):
                for _ in loader:
                    pass

        calls[workers] = epochs
    seconds = in_turns({str(workers): call for workers, call in calls.items()}, repetitions)
    return {int(workers): values for workers, values in seconds.items()}, THROUGHPUT_EPOCHS * len(dataset)


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
    """Return what the first start with the images of a folder costs."""
    from utils.dataset.label_cache import load_labels

    start = time.perf_counter()
    load_labels(images)
    return {"checking images and labels": time.perf_counter() - start}


def start_costs(images: Path) -> dict[str, float]:
    """Return what later starts cost, until a training runs: seconds, and MB of a loader process."""
    from utils.dataloaders import create_dataloader
    from utils.dataset.label_cache import load_labels

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
    del batches
    memory = worker_megabytes(loader.dataset)
    if memory:
        costs["memory that a loader process has for itself"] = memory
    return costs


def worker_megabytes(dataset: Any) -> float:
    """Return what a loader process has for itself when it has seen the labels of all images and made some items, MB."""
    from torch.utils.data import DataLoader

    from utils.dataloaders import seed_worker

    settled = BATCH * SETTLED_BATCHES
    order = [*range(len(dataset)), *range(len(dataset), len(dataset) + settled)]  # the latter are made as well
    known: Any = AllLabels(dataset)
    loader: Any = DataLoader(
        known, batch_size=BATCH, num_workers=1, sampler=order, worker_init_fn=seed_worker,
        collate_fn=sum,
    )  # fmt: skip
    batches = iter(loader)
    for _ in range(len(loader) - 2):
        next(batches)
    return max(_own_megabytes(worker.pid) for worker in batches._workers)


class AllLabels:
    """What a data set knows of each image, and behind that its items: 1 for each, in the process that asks for it."""

    def __init__(self, dataset: Any) -> None:
        """Look at ``dataset``."""
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> int:
        """Look at an image's name, size, labels and polygons, or make item ``number`` minus the length."""
        if number >= len(self.dataset):
            image, *_ = self.dataset[number % len(self.dataset), number]
            return min(len(image), 1)
        known = (self.dataset.im_files, self.dataset.labels, self.dataset.segments, self.dataset.shapes)
        return min(1, *(len(column[number]) + 1 for column in known))


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
    figures = measure(options.few, options.many, options.repetitions)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(ScalingOptions, "Cost of starting against the number of images.")))
