"""Batches of image files, for the calibration of INT8 and for the comparison of exports."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from models.exporters.verify import example_image
from utils.dataset.description import check_dataset
from utils.dataset.images import read_image
from utils.dataset.labels import find_images
from utils.errors import InputError
from utils.log import LOGGER

SEED = 0  # of the choice of images


class ImageBatches:
    """Batches of images (B, 3, H, W) in 0..1, read again in each pass, as all of them would fill the memory.

    Args:
        files: image files; if empty, one generated image. size: (height, width) in pixels to letterbox them to.
        batch: images per batch. doing: title of the progress bar.
    """

    def __init__(self, files: Sequence[str], size: tuple[int, int], batch: int = 1, doing: str = "Calibrating") -> None:
        self.files: list[Path | None] = [Path(file) for file in files] or [None]
        self.size = size
        self.batch = batch
        self.doing = doing

    def __len__(self) -> int:
        """Number of batches; the last one is filled up with copies of its last image."""
        return -(-len(self.files) // self.batch)

    def __iter__(self) -> Iterator[Tensor]:
        for start in tqdm(range(0, len(self.files), self.batch), self.doing, disable=None, leave=False):
            images = [example_image(file, self.size) for file in self.files[start : start + self.batch]]
            yield torch.cat(images + images[-1:] * (self.batch - len(images)))


def choose_files(data: str, split: str, count: int) -> list[str]:
    """Choose at most ``count`` images of a split of a data set YAML at random, always the same ones.

    Unreadable images are logged and skipped.

    Raises:
        InputError: the data set does not exist, or none of its images can be read.
    """
    files = sorted(find_images(check_dataset(data, splits=(split,), autodownload=False)[split]))
    random.Random(SEED).shuffle(files)
    readable: list[str] = []
    for file in files:
        if len(readable) == count:
            break
        try:
            read_image(file)
        except InputError as error:
            LOGGER.warning(f"WARNING: skipped: {error}")
            continue
        readable.append(file)
    if not readable:
        raise InputError(f"none of the {split} images of {data} can be read: they are named above")
    return readable


def calibration_files(data: str, count: int) -> list[str]:
    """``choose_files`` from the training images. Its InputError says what they are needed for."""
    try:
        return choose_files(data, "train", count)
    except InputError as error:
        raise InputError(
            f"--int8 needs training images to calibrate on: give their data set by --data ({error})"
        ) from None
