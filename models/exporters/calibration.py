"""Training images from which the ranges of INT8 numbers are taken."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from models.exporters.verify import example_image
from utils.checks import check_dataset
from utils.errors import InputError
from utils.labels import find_images
from utils.log import LOGGER

SEED = 0  # of the choice of images


class CalibrationImages:
    """Batches of images (B, 3, H, W) in 0..1; they are read anew for each pass, as all of them would fill the memory.

    Args:
        files: image files. size: (height, width) in pixels that they are letterboxed to. batch: images of one batch.
    """

    def __init__(self, files: Sequence[str], size: tuple[int, int], batch: int = 1) -> None:
        self.files, self.size, self.batch = list(files), size, batch

    def __len__(self) -> int:
        """Number of batches; the last one is filled up with its last image."""
        return -(-len(self.files) // self.batch)

    def __iter__(self) -> Iterator[Tensor]:
        for start in tqdm(range(0, len(self.files), self.batch), "Calibrating", disable=None, leave=False):
            images = [example_image(Path(file), self.size) for file in self.files[start : start + self.batch]]
            yield torch.cat(images + images[-1:] * (self.batch - len(images)))

    def first(self, count: int) -> CalibrationImages:
        """The first ``count`` images alone."""
        return CalibrationImages(self.files[:count], self.size, self.batch)


def choose_files(data: str, count: int) -> list[str]:
    """At most ``count`` training images of a data set YAML that can be read, chosen at random, always the same ones.

    Raises:
        InputError: the data set is not there, or none of its images can be read.
    """
    from utils.images import read_image

    try:
        files = sorted(find_images(check_dataset(data, splits=("train",), autodownload=False)["train"]))
    except InputError as error:
        raise InputError(
            f"--int8 needs training images to calibrate on: give their data set by --data ({error})"
        ) from None
    random.Random(SEED).shuffle(files)
    chosen: list[str] = []
    for file in files:
        if len(chosen) == count:
            break
        try:
            read_image(file)
        except InputError as error:
            LOGGER.warning(f"WARNING: skipped for calibration: {error}")
            continue
        chosen.append(file)
    if not chosen:
        raise InputError(f"--int8 needs training images to calibrate on, and none of {data} can be read")
    return chosen
