#!/usr/bin/env python3
"""Images per second of training, compared with the plain loop.

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

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks import checkouts
from benchmarks.figures import Figure, as_table, compare_seconds, in_turns
from benchmarks.material import PLAIN_THRESHOLDS, demo_data, one_thread, training_state
from benchmarks.plain_ways import TwoStepImages, make_plain, plain_images, plain_optimizer_step
from utils.commands.allocator import keep_freed_memory, set_thresholds
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.dataloaders import collate_fn
from utils.dataset.description import check_dataset
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
    beside: str = option("", "folder of another checkout of YOLOv5, whose train.py is timed in turns with ours")


ArrayBatch = tuple[np.ndarray, np.ndarray]  # images (B, 3, H, W) uint8, targets (N, 6)


class Loop:
    """A training loop in this process, fast or plain, that loads its own batches."""

    def __init__(self, options: TrainingOptions, split: str | list[str], names: dict[int, str], plain: bool) -> None:
        """Build model, optimizer and data set; both ways start from the same numbers."""
        self.options = options
        self.plain = plain
        hyp = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
        dataset_class = TwoStepImages if plain else LoadImagesAndLabels
        cache = "none" if plain else "ram"
        self.dataset = dataset_class(split, options.imgsz, augment=True, hyp=hyp, cache_images=cache)
        self.state = training_state(
            options.cfg, list(names.values()), options.imgsz, options.batch_size, options.batches
        )
        if plain:
            make_plain(self.state)
        self.batch = self.load()
        self.loss: float = 0.0

    def load(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch of the data set, always the same: images (B, 3, H, W) uint8, targets (N, 6)."""
        size = self.options.batch_size
        items = [self.dataset[number % len(self.dataset), number] for number in range(size)]
        images, targets, *_ = collate_fn(items)
        return images, targets

    def step(self) -> None:
        """Run forward, backward, optimizer and moving average on ``batch``."""
        state = self.state
        images, targets = self.batch
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
        """Load batches and run a step on each."""
        for _ in range(self.options.batches):
            self.batch = self.load()
            self.step()

    def steps(self) -> None:
        """Run steps on ``batch``."""
        for _ in range(self.options.batches):
            self.step()


def measure(options: TrainingOptions | None = None) -> list[Figure]:
    """Return the figures of training."""
    options = options or TrainingOptions()
    with tempfile.TemporaryDirectory() as folder:
        options.data = options.data or demo_data(Path(folder))
        with one_thread():
            figures = _loops(options)
        if options.beside:
            figures.append(_beside(options, Path(folder)))
        return figures


class LoopProcess:
    """A ``Loop`` in a separate process, because the allocator's settings hold for a whole process.

    Attributes:
        seconds: CPU times by work, ``train`` or ``steps``.
    """

    loop: Loop  # set in the separate process only

    def __init__(self, options: TrainingOptions, plain: bool) -> None:
        """Start the process."""
        context = get_context("spawn")  # a fork would inherit the threads of torch
        self._pool = ProcessPoolExecutor(1, context, initializer=self._begin, initargs=(options, plain))
        self.seconds: dict[str, list[float]] = {}

    @classmethod
    def _begin(cls, options: TrainingOptions, plain: bool) -> None:
        torch.set_num_threads(1)
        if plain:
            set_thresholds(*PLAIN_THRESHOLDS)
        else:
            keep_freed_memory()
        data = check_dataset(options.data)
        cls.loop = Loop(options, data["train"], data["names"], plain)

    @classmethod
    def _first_step(cls, batch: ArrayBatch | None) -> tuple[float, ArrayBatch]:
        if batch is not None:
            cls.loop.batch = torch.from_numpy(batch[0]), torch.from_numpy(batch[1])
        cls.loop.step()
        images, targets = cls.loop.batch
        return cls.loop.loss, (images.numpy(), targets.numpy())

    @classmethod
    def _seconds(cls, work: str) -> float:
        method = {"train": cls.loop.train, "steps": cls.loop.steps}[work]
        start = time.process_time()
        method()
        return time.process_time() - start

    def first_step(self, batch: ArrayBatch | None = None) -> tuple[float, ArrayBatch]:
        """Run a step on ``batch``, by default the loop's; return the loss and the batch."""
        return self._pool.submit(self._first_step, batch).result()

    def measure(self, work: str) -> None:
        """Add the CPU time of ``train`` or ``steps`` to ``seconds``."""
        self.seconds.setdefault(work, []).append(self._pool.submit(self._seconds, work).result())

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _loops(options: TrainingOptions) -> list[Figure]:
    """Time the fast and the plain loop in turns, after their losses were compared."""
    ours = LoopProcess(options, plain=False)
    plain = LoopProcess(options, plain=True)
    plain_loss, batch = plain.first_step()
    our_loss, _ = ours.first_step(batch)
    difference = abs(our_loss - plain_loss) / plain_loss  # of the first step: later ones amplify its rounding
    for work in ("steps", "train"):
        in_turns({"ours": partial(ours.measure, work), "plain": partial(plain.measure, work)}, options.repetitions)
    ours.close()
    plain.close()
    count = options.batches * options.batch_size
    setting = f"{Path(options.cfg).stem}, {options.imgsz} px, batch {options.batch_size}, CPU time of one thread"

    def figure(subject: str, work: str, goal: float | None, note: str) -> Figure:
        our_seconds = ours.seconds[work][1:]  # the first round warms up
        plain_seconds = plain.seconds[work][1:]
        return compare_seconds(f"{subject}, {setting}", our_seconds, plain_seconds, goal, note, count, "images/s")

    return [
        figure("training", "train", 1.35, "contiguous, unfused, two-step mosaic, no image cache"),
        figure("its step alone", "steps", None, f"contiguous, unfused; the first losses differ by {difference:.1e}"),
    ]


def _beside(options: TrainingOptions, folder: Path) -> Figure:
    """Compare the wall time from one optimizer step of train.py to the next with that of another checkout."""

    def step_seconds(name: str, checkout: Path, number: int) -> float:
        arguments = [
            "--weights", "", "--cfg", options.cfg, "--data", options.data, "--imgsz", options.imgsz, "--batch-size",
            options.batch_size, "--epochs", 1, "--cache", "ram", "--device", "cpu", "--workers", 0, "--noval",
            "--nosave", "--noplots", "--project", folder, "--name", f"{name}{number}",
        ]  # fmt: skip
        steps = checkouts.start(checkout, "train.py", arguments, folder)["steps"]
        return statistics.median(after - before for before, after in itertools.pairwise(steps))

    other = Path(options.beside).resolve()
    ours, theirs = [], []
    for number in range(max(options.repetitions // 2, 1)):
        ours.append(step_seconds("ours", ROOT, number))
        theirs.append(step_seconds("beside", other, number))
    subject = f"step of train.py, {Path(options.cfg).stem}, {options.imgsz} px, all threads"
    return compare_seconds(subject, ours, theirs, None, f"train.py of {other.name}", options.batch_size, "images/s")


def main(options: TrainingOptions) -> list[Figure]:
    """Measure and print the table."""
    figures = measure(options)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(TrainingOptions, "Images per second of training, compared with the plain loop.")))
