"""Image files in batches: those that INT8 is calibrated on, and those that exports are compared on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from models.exporters.verify import example_image
from utils.checks import check_dataset
from utils.dataset.labels import find_images
from utils.errors import InputError
from utils.log import LOGGER

SEED = 0  # of the choice of images


class ImageBatches:
    """Batches of images (B, 3, H, W) in 0..1; they are read anew for each pass, as all of them would fill the memory.

    Args:
        files: image files; none stands for one generated picture. size: (height, width) in pixels that they are
            letterboxed to. batch: images of one batch. doing: what they are read for, shown while they are.
    """

    def __init__(self, files: Sequence[str], size: tuple[int, int], batch: int = 1, doing: str = "Calibrating") -> None:
        self.files: list[Path | None] = [Path(file) for file in files] or [None]
        self.size, self.batch, self.doing = size, batch, doing

    def __len__(self) -> int:
        """Number of batches; the last one is filled up with its last image."""
        return -(-len(self.files) // self.batch)

    def __iter__(self) -> Iterator[Tensor]:
        for start in tqdm(range(0, len(self.files), self.batch), self.doing, disable=None, leave=False):
            images = [example_image(file, self.size) for file in self.files[start : start + self.batch]]
            yield torch.cat(images + images[-1:] * (self.batch - len(images)))


def choose_files(data: str, split: str, count: int) -> list[str]:
    """At most ``count`` images of a split of a data set YAML, chosen at random, always the same ones.

    Those that cannot be read are named and skipped.

    Raises:
        InputError: the data set is not there, or none of its images can be read.
    """
    from utils.dataset.images import read_image

    files = sorted(find_images(check_dataset(data, splits=(split,), autodownload=False)[split]))
    random.Random(SEED).shuffle(files)
    chosen: list[str] = []
    for file in files:
        if len(chosen) == count:
            break
        try:
            read_image(file)
        except InputError as error:
            LOGGER.warning(f"WARNING: skipped: {error}")
            continue
        chosen.append(file)
    if not chosen:
        raise InputError(f"none of the {split} images of {data} can be read: they are named above")
    return chosen


def calibration_files(data: str, count: int) -> list[str]:
    """``choose_files`` of the training images. Raises InputError that says what they are for."""
    try:
        return choose_files(data, "train", count)
    except InputError as error:
        raise InputError(
            f"--int8 needs training images to calibrate on: give their data set by --data ({error})"
        ) from None
