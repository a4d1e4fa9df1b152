#!/usr/bin/env python3
"""Images per second of validation and detection compared with the plain ways, and the peak memory of val.py.

    python benchmarks/validation.py --data data/mask.yaml --weights best.pt --imgsz 320

The plain way of validation: contiguous memory, freed memory returned to the system, NMS image by image, matching
threshold by threshold in torch, pictures drawn by the same process. The command is measured as users start it: in a
new process, imports included. The plain way of detection: one image per batch. Without --weights or --data, a network
with random weights and drawn pictures are used.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

import detect
import val
from benchmarks import checkouts
from benchmarks.figures import Figure, as_table, compare_seconds, in_turns
from benchmarks.material import demo_data, one_thread, responsive_checkpoint
from benchmarks.plain_ways import plain_validation
from utils.callbacks import Callbacks
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.dataset.description import check_dataset
from utils.dataset.labels import find_images
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.validation.loop import Evaluation

# Largest allowed difference of predictions, scores in 0..1 and boxes in image sides. Convolutions in another memory
# format round differently, by up to 4e-4 in a network of random weights; an error makes a far larger difference.
NOISE = 1e-2
# Starts a command and prints its peak memory, in the unit of the system.
WATCHED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
PLAIN_COMMAND = """
import val
from benchmarks.plain_ways import plain_validation
from utils.commands.cli import run_command
from utils.commands.options import parse
from utils.validation.options import ValOptions

def main():
    with plain_validation():
        val.main(parse(ValOptions, ""))

run_command(main)
"""


Validate = Callable[[Callbacks | None], None]


@dataclass
class ValidationOptions:
    """Options of the benchmark."""

    data: str = option("", "data set YAML; default: demo pictures, drawn for this")
    weights: str = option("", "checkpoint; default: YOLOv5n with random weights")
    imgsz: int = option(320, "image size in pixels")
    batch_size: int = option(32, "images per batch, of validation and detection")
    repetitions: int = option(5, "rounds of validation without pictures")
    command_repetitions: int = option(3, "rounds of the whole command")
    beside: str = option("", "folder of another checkout of YOLOv5, whose val.py is timed in turns with ours")


def measure(options: ValidationOptions | None = None) -> list[Figure]:
    """Return the figures of validation and detection."""
    options = options or ValidationOptions()
    with tempfile.TemporaryDirectory() as folder:
        options.data = options.data or demo_data(Path(folder))
        split = check_dataset(options.data)["val"]
        files = find_images(split)
        images = len(files)
        options.weights = options.weights or str(responsive_checkpoint(Path(folder), "yolov5n", split, options.imgsz))
        with one_thread():
            figures = [_without_pictures(options, Path(folder), images)]
            detection = _detection(options, Path(folder), files)
        if options.beside:
            figures.append(_beside(options, Path(folder), images))
        return [*figures, *_command(options, Path(folder), images), detection]


def _beside(options: ValidationOptions, folder: Path, images: int) -> Figure:
    """Compare the whole command val.py with that of another checkout."""

    def validate(checkout: Path) -> None:
        arguments = [
            "--weights", options.weights, "--data", options.data, "--imgsz", options.imgsz, "--batch-size",
            options.batch_size, "--device", "cpu", "--project", folder,
        ]  # fmt: skip
        checkouts.start(checkout, "val.py", arguments, folder)

    other = Path(options.beside).resolve()
    calls = {"ours": partial(validate, ROOT), "beside": partial(validate, other)}
    seconds = in_turns(calls, options.command_repetitions)
    subject, note = f"val.py, {options.imgsz} px, all threads", f"val.py of {other.name}"
    return compare_seconds(subject, seconds["ours"], seconds["beside"], None, note, images, "images/s")


def detections_of(validate: Validate) -> dict[str, np.ndarray]:
    """Return the detections of a validation by image path: (N, 6) corners in pixels of the image, confidence, class."""
    detections: dict[str, np.ndarray] = {}

    def record(_: object, native: torch.Tensor, path: Path, *__: object) -> None:
        detections[str(path)] = native.numpy().copy()

    callbacks = Callbacks()
    callbacks.register_action("on_val_image_end", callback=record)
    validate(callbacks)
    return detections


@contextmanager
def recorded_predictions() -> Iterator[list[torch.Tensor]]:
    """Record the network's predictions during a validation: (B, N, 5 + nc) for each batch."""
    infer = Evaluation._infer
    predictions: list[torch.Tensor] = []

    def record(evaluation: Evaluation, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        result = infer(evaluation, images)
        predictions.append(result[0].clone())
        return result

    with mock.patch.object(Evaluation, "_infer", record):
        yield predictions


@contextmanager
def replayed_predictions(predictions: list[torch.Tensor]) -> Iterator[None]:
    """Replace the network's predictions during a validation, batch by batch."""
    remaining = iter(predictions)
    with mock.patch.object(Evaluation, "_infer", lambda evaluation, images: (next(remaining).clone(), None)):
        yield


def compare_ways(ours: Validate, plain: Validate, side: int) -> str:
    """Compare the results of two validations of images with ``side`` pixels and return a note about them.

    Rounding decides which of two boxes with nearly equal scores is better, and which scores pass a threshold. So
    predictions are compared as numbers, and detections as made from the same predictions, where they must be equal.

    Raises:
        InputError: predictions differ by more than ``NOISE``, detections differ, or there are none.
    """
    with recorded_predictions() as predictions:
        detections = detections_of(ours)
    with recorded_predictions() as plain_predictions:
        plain(None)
    with replayed_predictions(predictions):
        plain_detections = detections_of(plain)
    difference = largest_difference(predictions, plain_predictions, side)
    if not difference <= NOISE:  # also if not a number
        raise InputError(
            f"the two ways do not agree: their predictions differ by {difference:.1g}, rounding by {NOISE:g}"
        )
    count = compare_detections(detections, plain_detections)
    return f"predictions equal within {difference:.0e}; {count} detections equal, made from the same predictions"


def largest_difference(ours: list[torch.Tensor], plain: list[torch.Tensor], side: int) -> float:
    """Return the largest difference of predictions (B, N, 5 + nc): of scores, and of boxes in image sides."""
    if [batch.shape for batch in ours] != [batch.shape for batch in plain]:
        return float("inf")
    differences = []
    for our_batch, plain_batch in zip(ours, plain, strict=True):
        difference = (our_batch - plain_batch).abs()
        differences.append(difference[..., :4].max() / side)
        differences.append(difference[..., 4:].max())
    return float(torch.stack(differences).max())  # NaN if one is


def compare_detections(ours: dict[str, np.ndarray], plain: dict[str, np.ndarray]) -> int:
    """Return the number of detections in all images. Raises InputError if one differs, or if there are none."""
    count = sum(map(len, ours.values()))
    if not count:
        raise InputError("nothing is detected, so the two ways cannot be compared: give other --weights")
    wrong = [path for path in {*ours, *plain} if not np.array_equal(ours.get(path, ()), plain.get(path, ()))]
    if wrong:
        raise InputError(f"the two ways do not agree: detections of {len(wrong)} images differ, one is {min(wrong)}")
    return count


def _without_pictures(options: ValidationOptions, folder: Path, images: int) -> Figure:
    """Compare val.run without pictures with the plain way, in this process."""

    def ours(callbacks: Callbacks | None = None) -> None:
        val.run(
            options.data,
            options.weights,
            imgsz=options.imgsz,
            batch_size=options.batch_size,
            workers=0,
            plots=False,
            device="cpu",
            project=str(folder),
            exist_ok=True,
            callbacks=callbacks,
        )

    def plain(callbacks: Callbacks | None = None) -> None:
        with plain_validation():
            ours(callbacks)

    agreement = compare_ways(ours, plain, options.imgsz)
    seconds = in_turns({"ours": ours, "plain": plain}, options.repetitions, time.process_time)
    subject = f"validation without pictures, {options.imgsz} px, CPU time of one thread"
    note = f"contiguous, NMS and matching by image; {agreement}"
    return compare_seconds(subject, seconds["ours"], seconds["plain"], 1.45, note, images, "images/s")


def _command(options: ValidationOptions, folder: Path, images: int) -> list[Figure]:
    """Compare the command val.py with its defaults, started in a new process, and its peak memory."""
    arguments = [
        "--data", options.data, "--weights", options.weights, "--imgsz", str(options.imgsz), "--batch-size",
        str(options.batch_size), "--workers", "0", "--device", "cpu", "--project", str(folder), "--exist-ok",
    ]  # fmt: skip
    peaks: dict[str, list[float]] = {"ours": [], "plain": []}

    def run(name: str, *start: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, sys.executable, *start, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise InputError(f"val.py failed: {done.stderr.strip().splitlines()[-1:]}")
        peaks[name].append(int(done.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e9)

    calls = {"ours": lambda: run("ours", "val.py"), "plain": lambda: run("plain", "-c", PLAIN_COMMAND)}
    seconds = in_turns(calls, options.command_repetitions)
    peak = statistics.median(peaks["ours"])
    plain_peak = statistics.median(peaks["plain"])
    subject = f"val.py with its defaults, {options.imgsz} px, in a new process, wall time"
    note = "the same, pictures drawn by the same process"
    return [
        compare_seconds(subject, seconds["ours"], seconds["plain"], 2.0, note, images, "images/s"),
        Figure("peak memory of val.py, its largest process", "GB", peak, plain_peak, plain_peak / peak, note=note),
    ]


def _detection(options: ValidationOptions, folder: Path, files: list[str]) -> Figure:
    """Compare detect.py with batches with detect.py on one image at a time; both write labels and pictures."""
    source = folder / "images.txt"
    source.write_text("\n".join(files), encoding="utf-8")

    def run(batch_size: int) -> None:
        detect.run(
            weights=options.weights,
            source=str(source),
            imgsz=options.imgsz,
            batch_size=batch_size,
            save_txt=True,
            device="cpu",
            project=str(folder / "detect"),
            exist_ok=True,
        )

    calls = {"batches": partial(run, options.batch_size), "single": partial(run, 1)}
    seconds = in_turns(calls, options.repetitions)
    subject = f"detect.py --batch-size {options.batch_size}, {options.imgsz} px, wall time, one thread"
    return compare_seconds(
        subject, seconds["batches"], seconds["single"], None, "--batch-size 1", len(files), "images/s"
    )


def main(options: ValidationOptions) -> list[Figure]:
    """Measure and print the table."""
    figures = measure(options)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(ValidationOptions, "Images per second of validation and detection.")))
