"""Images for repairs, and the statistics of batch norms estimated anew from them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.log import LOGGER, colorstr

SEED = 0  # of the choice of images


def training_batches(data: dict[str, Any], count: int, image_size: int, batch_size: int, stride: int) -> list[Tensor]:
    """About ``count`` training images, chosen at random, without augmentation.

    Args:
        data: a checked data set mapping with the split 'train'.
        count: rounded down to whole batches; at most the images there are.
        image_size: pixels; images are letterboxed to squares of this side.
        batch_size: images of one batch; all batches are equally large.
        stride: the network's largest stride in pixels.

    Returns:
        Batches (B, 3, image_size, image_size) uint8 RGB.
    """
    from utils.dataloaders import create_dataloader

    loader, dataset = create_dataloader(
        data["train"], image_size, min(batch_size, count), stride, shuffle=True, workers=0, seed=SEED,
        prefix=colorstr("repair: "),
    )  # fmt: skip
    size = loader.batch_size or 1
    whole = max(min(count, len(dataset)) // size, 1)
    return [batch[0] for batch in tqdm(islice(loader, whole), "Reading images", whole, disable=None, leave=False)]


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Replace running mean and variance of every batch norm by those of ``batches``, in place.

    Each batch counts alike (a cumulative average). Everything else computes as in evaluation mode, in which the model
    is left.

    Args:
        model: the network.
        batches: images (B, 3, H, W) uint8.
    """
    weight = next(model.parameters())
    norms = [module for module in model.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
        norm.train()
    for images in tqdm(batches, "Estimating batch norm", disable=None, leave=False):
        model(images.to(weight.device).to(weight.dtype) / 255)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    LOGGER.info(f"{len(norms)} batch norms estimated anew on {sum(map(len, batches))} images")
