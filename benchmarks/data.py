#!/usr/bin/env python3
"""Training images made per second, compared with the plain two-step way, in CPU time of one thread.

    python benchmarks/data.py --data data/mask.yaml --imgsz 320

Without --data, pictures of the demo data set are drawn into a temporary folder. Images, random numbers and labels are
the same for all alternatives (tests/test_tiles.py compares them), and they are timed in turns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from benchmarks.figures import Figure, as_table, compare_seconds, in_turns
from benchmarks.material import demo_data, one_thread
from benchmarks.plain_ways import TwoStepImages
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.dataset.description import check_dataset
from utils.dataset.images import read_image
from utils.dataset.items import LoadImagesAndLabels
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.training.hyperparameters import read_hyperparameters

LARGE_PHOTOGRAPH = (3000, 4000)  # height and width in pixels, as of a phone's camera


@dataclass
class DataOptions:
    """Options of the benchmark."""

    data: str = option("", "data set YAML; default: demo pictures, drawn for this")
    imgsz: int = option(320, "image size in pixels")
    images: int = option(96, "items of one round")
    repetitions: int = option(7, "rounds")


def measure(data: str = "", imgsz: int = 320, images: int = 96, repetitions: int = 7) -> list[Figure]:
    """Return the figures of loading.

    Args:
        data: data set YAML, or '' for demo pictures. imgsz: side of the training images in pixels.
        images: training images made in one round. repetitions: rounds.
    """
    with tempfile.TemporaryDirectory() as folder, one_thread():
        data = data or demo_data(Path(folder), images=max(images * 5 // 4, 2))
        split = check_dataset(data)["train"]
        return [*_items(split, imgsz, images, repetitions), _large_photographs(Path(folder), imgsz, repetitions)]


def _items(split: str | list[str], imgsz: int, count: int, repetitions: int) -> list[Figure]:
    hyp = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")

    def make_round(dataset_class: type[LoadImagesAndLabels], cache: str) -> Callable[[], object]:
        dataset = dataset_class(split, imgsz, augment=True, hyp=hyp, cache_images=cache)
        return lambda: [dataset[number % len(dataset), number] for number in range(count)]

    rounds: dict[str, Callable[[], object]] = {}
    for name, dataset_class in (("ours", LoadImagesAndLabels), ("plain", TwoStepImages)):
        for cache in ("ram", "none"):
            rounds[f"{name} {cache}"] = make_round(dataset_class, cache)
    seconds = in_turns(rounds, repetitions, time.process_time)

    def figure(subject: str, ours: str, plain: str, goal: float | None, note: str) -> Figure:
        return compare_seconds(subject, seconds[ours], seconds[plain], goal, note, count, "images/s")

    size = f"{imgsz} px"
    return [
        figure(f"mosaic, {size}, images in memory", "ours ram", "plain ram", 1.35, "two-step mosaic, images in memory"),
        figure(f"mosaic, {size}, no image cache", "ours none", "plain none", None, "two-step mosaic, no image cache"),
        figure(f"training data, {size}, by default", "ours ram", "plain none", 2.8, "two-step mosaic, no image cache"),
    ]


def _large_photographs(folder: Path, imgsz: int, repetitions: int) -> Figure:
    """Compare decoding a photograph at a fraction of its size with decoding all of it and resizing."""
    for name in ("images", "labels"):
        (folder / "large" / name).mkdir(parents=True)
    photograph = folder / "large/images/0.jpg"
    coarse = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    cv2.imwrite(str(photograph), cv2.resize(coarse, LARGE_PHOTOGRAPH[::-1], interpolation=cv2.INTER_CUBIC))
    (folder / "large/labels/0.txt").write_text("0 .5 .5 .5 .5\n")
    dataset = LoadImagesAndLabels(photograph.parent, imgsz, augment=True)
    height, width = dataset.load_image(0)[0].shape[:2]
    alternatives: dict[str, Callable[[], object]] = {
        "ours": lambda: dataset.load_image(0),
        "plain": lambda: cv2.resize(read_image(photograph), (width, height)),
    }
    seconds = in_turns(alternatives, repetitions, time.process_time)
    subject = f"reading a photograph of {LARGE_PHOTOGRAPH[1]}x{LARGE_PHOTOGRAPH[0]} for {imgsz} px"
    return compare_seconds(subject, seconds["ours"], seconds["plain"], None, "decoded whole, then resized")


def main(options: DataOptions) -> list[Figure]:
    """Measure and print the table."""
    figures = measure(options.data, options.imgsz, options.images, options.repetitions)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(DataOptions, "Training images made per second.")))
