#!/usr/bin/env python3
"""Images per second of training beside the plain loop.

    python benchmarks/training.py --data data/mask.yaml --cfg models/yolov5n.yaml --imgsz 320 --batch-size 16

The plain loop: contiguous memory, two-step mosaic, no image cache, SGD and moving average parameter by parameter,
freed memory returned to the system. Without --data, pictures of the demo data set are drawn into a temporary folder.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import checkouts
from benchmarks.figures import Figure, as_table, compare_seconds, in_turns
from benchmarks.material import PLAIN_THRESHOLDS, demo_data, one_thread, training_state
from benchmarks.plain_ways import TwoStepImages, make_plain, plain_images, plain_optimizer_step
from utils.checks import check_dataset
from utils.commands.allocator import keep_freed_memory, set_thresholds
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.dataloaders import collate_fn
from utils.dataset.items import LoadImagesAndLabels
from utils.device import prepare_images
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.training.engine import optimizer_step
from utils.training.hyperparameters import read_hyperparameters


@dataclass
class TrainingOptions:
    """Options of the benchmark."""

    data: str = option("", "data set YAML; default: demo pictures, drawn for this")
    cfg: str = option(str(ROOT / "models/yolov5n.yaml"), "model YAML")
    imgsz: int = option(320, "image size in pixels")
    batch_size: int = option(16, "images per batch")
    batches: int = option(2, "batches of one round")
    repetitions: int = option(5, "rounds")
    beside: str = option("", "folder of another checkout of YOLOv5: its train.py is timed, too, in turns with ours")


class Loop:
    """A training loop on batches that it makes itself, in this process, fast or plain."""

    def __init__(self, options: TrainingOptions, split: Any, names: dict[int, str], plain: bool) -> None:
        """Build model, optimizer and data set; the same numbers whichever way."""
        self.options, self.plain = options, plain
        hyp = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
        kind, cache = (TwoStepImages, "none") if plain else (LoadImagesAndLabels, "ram")
        self.dataset: Any = kind(split, options.imgsz, augment=True, hyp=hyp, cache_images=cache)
        self.state = training_state(
            options.cfg, list(names.values()), options.imgsz, options.batch_size, options.batches
        )
        if plain:
            make_plain(self.state)
        self.batch = self.load()
        self.loss: float = 0.0

    def load(self) -> tuple[Any, Any]:
        """One batch of the data set, always the same."""
        size = self.options.batch_size
        items = [self.dataset[number % len(self.dataset), number] for number in range(size)]
        images, targets, *_ = collate_fn(items)
        return images, targets

    def step(self) -> None:
        """Forward, backward, optimizer and moving average on the batch at hand."""
        state, (images, targets) = self.state, self.batch
        state.model.train()
        images = plain_images(images) if self.plain else prepare_images(images, state.device)
        loss, items = state.compute_loss(state.model(images), targets)
        loss.backward()
        self.loss = float(items.sum())
        if self.plain:
            plain_optimizer_step(state)
        else:
            optimizer_step(state, 0)

    def train(self) -> None:
        """Load batches and step on them."""
        for _ in range(self.options.batches):
            self.batch = self.load()
            self.step()

    def steps(self) -> None:
        """Step on the batch at hand."""
        for _ in range(self.options.batches):
            self.step()


def measure(options: TrainingOptions | None = None) -> list[Figure]:
    """The figures of training."""
    options = options or TrainingOptions()
    with tempfile.TemporaryDirectory() as folder:
        options.data = options.data or demo_data(Path(folder))
        with one_thread():
            figures = _loops(options)
        if options.beside:
            figures.append(_beside(options, Path(folder)))
        return figures


class LoopProcess:
    """A ``Loop`` in a process of its own: how freed memory is treated holds for a process as a whole."""

    loop: Loop  # in that process

    def __init__(self, options: TrainingOptions, plain: bool) -> None:
        """Start it."""
        context = get_context("spawn")  # a fork of a process that has used a GPU cannot
        self._pool = ProcessPoolExecutor(1, context, initializer=self._begin, initargs=(options, plain))
        self.seconds: dict[str, list[float]] = {}

    @classmethod
    def _begin(cls, options: TrainingOptions, plain: bool) -> None:
        torch.set_num_threads(1)
        set_thresholds(*PLAIN_THRESHOLDS) if plain else keep_freed_memory()
        data = check_dataset(options.data)
        cls.loop = Loop(options, data["train"], data["names"], plain)

    @classmethod
    def _first_step(cls, batch: tuple[Any, ...] | None) -> tuple[float, tuple[Any, ...]]:
        if batch is not None:
            images, targets = map(torch.from_numpy, batch)
            cls.loop.batch = images, targets
        cls.loop.step()
        return cls.loop.loss, tuple(part.numpy() for part in cls.loop.batch)

    @classmethod
    def _seconds(cls, work: str) -> float:
        start = time.process_time()
        getattr(cls.loop, work)()
        return time.process_time() - start

    def first_step(self, batch: tuple[Any, ...] | None = None) -> tuple[float, tuple[Any, ...]]:
        """Step on ``batch``, or on its own; the loss, and the images and targets as arrays."""
        return self._pool.submit(self._first_step, batch).result()

    def measure(self, work: str) -> None:
        """Add the CPU time of ``train`` or ``steps`` to ``seconds``."""
        self.seconds.setdefault(work, []).append(self._pool.submit(self._seconds, work).result())

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _loops(options: TrainingOptions) -> list[Figure]:
    ours, plain = loops = [LoopProcess(options, way) for way in (False, True)]
    plain_loss, batch = plain.first_step()
    apart = abs(ours.first_step(batch)[0] - plain_loss) / plain_loss  # later the rounding of the first steps has grown
    for work in ("steps", "train"):
        in_turns({str(way): partial(loop.measure, work) for way, loop in enumerate(loops)}, options.repetitions)
    for loop in loops:
        loop.close()
    count, unit = options.batches * options.batch_size, "images/s"
    what = f"{Path(options.cfg).stem}, {options.imgsz} px, batch {options.batch_size}, CPU time of one thread"
    same = f"contiguous, unfused; the first losses differ by {apart:.1e}"
    whole = "contiguous, unfused, two-step mosaic, no image cache"

    def figure(subject: str, work: str, goal: float | None, note: str) -> Figure:
        fast, slow = (loop.seconds[work][1:] for loop in loops)  # the first round warms up
        return compare_seconds(f"{subject}, {what}", fast, slow, goal, note, count, unit)

    return [figure("training", "train", 1.35, whole), figure("its step alone", "steps", None, same)]


def _beside(options: TrainingOptions, folder: Path) -> Figure:
    """Wall time from one optimizer step of train.py to the next, beside that of another checkout."""

    def seconds(name: str, checkout: Path, number: int) -> float:
        arguments = [
            "--weights", "", "--cfg", options.cfg, "--data", options.data, "--imgsz", options.imgsz, "--batch-size",
            options.batch_size, "--epochs", 1, "--cache", "ram", "--device", "cpu", "--workers", 0, "--noval",
            "--nosave", "--noplots", "--project", folder, "--name", f"{name}{number}",
        ]  # fmt: skip
        steps = checkouts.start(checkout, "train.py", arguments, folder)["steps"]
        return statistics.median(after - before for before, after in itertools.pairwise(steps))

    other = Path(options.beside).resolve()
    rounds = [(seconds("ours", ROOT, n), seconds("beside", other, n)) for n in range(max(options.repetitions // 2, 1))]
    return compare_seconds(
        f"step of train.py, {Path(options.cfg).stem}, {options.imgsz} px, all threads", [ours for ours, _ in rounds],
        [theirs for _, theirs in rounds], None, f"train.py of {other.name}", options.batch_size, "images/s",
    )  # fmt: skip


def main(options: TrainingOptions) -> list[Figure]:
    """Measure and print the table."""
    figures = measure(options)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(TrainingOptions, "Images per second of training beside the plain loop.")))
