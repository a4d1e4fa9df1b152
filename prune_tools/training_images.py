"""Training images for the scores and repairs of a pruning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from utils.dataloaders import create_dataloader
from utils.log import colorstr

SEED = 0  # decides which images are read
BATCH_SIZE = 16  # images; --batch-size is for validation and must not influence which channels are removed
OBJECT_SHARE = 0.9  # share of an image's focus that lies on its objects
OBJECT_MARGIN = 0.25  # of a box's sides, added all around: the surroundings help to recognise an object


@dataclass
class Batch:
    """Training images for a repair.

    ``images``: (B, 3, H, W) uint8 RGB. ``focus``: (B, H, W) weight of each pixel; those of an image add up to 1.
    """

    images: Tensor
    focus: Tensor


def read_training_images(
    data: dict[str, Any],
    count: int,
    image_size: int,
    stride: int,
    single_cls: bool = False,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[Tensor, Tensor, Any]]:
    """Read about ``count`` training images without augmentation: a random choice, the same every time.

    Args:
        data: a checked data set mapping with the split 'train'.
        count: images; rounded down to whole batches, but at least one batch, and at most all images.
        image_size: pixels; images are letterboxed to squares of this side.
        stride: pixels of which the sides of an image must be multiples.
        single_cls: treat all classes as one.
        batch_size: images of one batch; all batches are equally large.

    Yields:
        Images (B, 3, H, W) uint8, labels (T, 6) and shapes, as ``utils.dataloaders.collate_fn`` makes them.
    """
    loader, dataset = create_dataloader(
        data["train"],
        image_size,
        min(batch_size, count),
        stride,
        shuffle=True,
        workers=0,
        seed=SEED,
        single_cls=single_cls,
        prefix=colorstr("train: "),
        names=data["names"],
    )
    size = loader.batch_size or 1
    whole = max(min(count, len(dataset)) // size, 1)
    for images, labels, _, shapes in tqdm(islice(loader, whole), "Reading images", whole, disable=None, leave=False):
        yield images, labels, shapes


def repair_images(
    data: dict[str, Any], count: int, image_size: int, stride: int, single_cls: bool = False
) -> list[Batch]:
    """The images that ``read_training_images`` yields for these arguments, with their focus."""
    return [
        Batch(images, focus_on_objects(images, labels, [padding for _, (_, padding) in shapes]))
        for images, labels, shapes in read_training_images(data, count, image_size, stride, single_cls)
    ]


def focus_on_objects(images: Tensor, labels: Tensor, paddings: Sequence[tuple[float, float]]) -> Tensor:
    """Weights of the pixels of images: high on objects, low on the rest of the picture, 0 on the padding.

    Args:
        images: (B, 3, H, W), letterboxed.
        labels: (T, 6) image in the batch, class, centre and size of the box as fractions.
        paddings: for each image the padding left and right, above and below, pixels.

    Returns:
        (B, H, W); each image sums to 1.
    """
    count, _, height, width = images.shape
    picture = torch.zeros(count, height, width)  # 1 inside the letterbox's padding
    objects = torch.zeros(count, height, width)  # 1 in the boxes and their margin
    for mask, (side, above) in zip(picture, paddings, strict=True):
        mask[round(above) : height - round(above), round(side) : width - round(side)] = 1
    grow = 0.5 + OBJECT_MARGIN
    for index, _, x, y, w, h in labels.tolist():
        left, right = max(0, int((x - grow * w) * width)), int((x + grow * w) * width) + 1
        top, bottom = max(0, int((y - grow * h) * height)), int((y + grow * h) * height) + 1
        objects[int(index), top:bottom, left:right] = 1
    objects *= picture
    picture = picture / picture.sum((1, 2), keepdim=True).clamp(min=1)
    objects = objects / objects.sum((1, 2), keepdim=True).clamp(min=1)
    empty = objects.sum((1, 2), keepdim=True) == 0  # (B, 1, 1), images without objects
    return torch.where(empty, picture, OBJECT_SHARE * objects + (1 - OBJECT_SHARE) * picture)
