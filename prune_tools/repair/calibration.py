"""Training images that pruning looks at, and the statistics of batch norms estimated anew from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.log import LOGGER, colorstr

SEED = 0  # of the choice of images
BATCH_SIZE = 16  # images; not --batch-size, which is that of validation and must not decide which channels go
OBJECT_SHARE = 0.9  # of the focus of an image that lies on its objects
OBJECT_MARGIN = 0.25  # of a box's sides, added all around: what surrounds an object tells what it is


@dataclass
class Batch:
    """Training images for a repair.

    ``images``: (B, 3, H, W) uint8 RGB. ``focus``: (B, H, W), how much each pixel matters; those of an image add up
    to 1.
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
    """About ``count`` training images, chosen at random but always the same ones, without augmentation.

    Args:
        data: a checked data set mapping with the split 'train'.
        count: rounded down to whole batches, but at least one; at most the images there are.
        image_size: pixels; images are letterboxed to squares of this side.
        stride: the network's largest stride in pixels.
        single_cls: treat all classes as one.
        batch_size: images of one batch; all batches are equally large.

    Yields:
        Images (B, 3, H, W) uint8, labels (T, 6) and shapes, as ``utils.dataloaders.collate_fn`` makes them.
    """
    from utils.dataloaders import create_dataloader

    loader, dataset = create_dataloader(
        data["train"], image_size, min(batch_size, count), stride, shuffle=True, workers=0, seed=SEED,
        single_cls=single_cls, prefix=colorstr("train: "), names=data["names"],
    )  # fmt: skip
    size = loader.batch_size or 1
    whole = max(min(count, len(dataset)) // size, 1)
    for images, labels, _, shapes in tqdm(islice(loader, whole), "Reading images", whole, disable=None, leave=False):
        yield images, labels, shapes


def repair_images(
    data: dict[str, Any], count: int, image_size: int, stride: int, single_cls: bool = False
) -> list[Batch]:
    """Return what ``read_training_images`` gives for these arguments, with the focus of each image."""
    return [
        Batch(images, focus_on_objects(images, labels, [padding for _, (_, padding) in shapes]))
        for images, labels, shapes in read_training_images(data, count, image_size, stride, single_cls)
    ]


def focus_on_objects(images: Tensor, labels: Tensor, paddings: Sequence[tuple[float, float]]) -> Tensor:
    """What matters in images (B, 3, H, W): mostly their objects, a little the rest of the picture, never the padding.

    Args:
        images: letterboxed images.
        labels: (n, 6) image in the batch, class, centre and size of the box as fractions.
        paddings: for each image the padding left and right, above and below, pixels.

    Returns:
        (B, H, W), each image's sum being 1.
    """
    count, _, height, width = images.shape
    picture, objects = torch.zeros(2, count, height, width)
    for image, (side, above) in zip(picture, paddings, strict=True):
        image[round(above) : height - round(above), round(side) : width - round(side)] = 1
    grow = 0.5 + OBJECT_MARGIN
    for index, _, x, y, w, h in labels.tolist():
        left, right = max(0, int((x - grow * w) * width)), int((x + grow * w) * width) + 1
        top, bottom = max(0, int((y - grow * h) * height)), int((y + grow * h) * height) + 1
        objects[int(index), top:bottom, left:right] = 1
    objects *= picture
    picture, objects = (mask / mask.sum((1, 2), keepdim=True).clamp(min=1) for mask in (picture, objects))
    empty = objects.sum((1, 2), keepdim=True) == 0
    return torch.where(empty, picture, OBJECT_SHARE * objects + (1 - OBJECT_SHARE) * picture)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Replace running mean and variance of every batch norm by those of ``batches``, in place.

    Each batch counts alike (a cumulative average). Everything else computes as in evaluation mode, in which the model
    is left.
    """
    weight = next(model.parameters())
    norms = [module for module in model.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
        norm.train()
    for batch in tqdm(batches, "Estimating batch norm", disable=None, leave=False):
        model(batch.images.to(weight.device).to(weight.dtype) / 255)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    LOGGER.info(f"{len(norms)} batch norms estimated anew on {sum(len(batch.images) for batch in batches)} images")
