"""Test-time augmentation: predictions at three image sizes, one of them mirrored, in the frame of the input image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

PASSES = ((1.0, False), (0.83, True), (0.67, False))  # (size relative to the image, mirrored left to right)
PADDING_VALUE = 0.447  # mean pixel of ImageNet


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """Resize (B, C, H, W) by ``ratio``, then pad it at the right and bottom to multiples of ``gs`` pixels.

    With ``same_shape`` nothing is padded. Ratio 1 returns the image itself.
    """
    if ratio == 1.0:
        return img
    height, width = img.shape[-2:]
    resized = int(height * ratio), int(width * ratio)
    img = nn.functional.interpolate(img, size=resized, mode="bilinear", align_corners=False)
    if same_shape:
        return img
    bottom = math.ceil(height * ratio / gs) * gs - resized[0]
    right = math.ceil(width * ratio / gs) * gs - resized[1]
    return nn.functional.pad(img, (0, right, 0, bottom), value=PADDING_VALUE)


def predict_augmented(
    predict: Callable[[Tensor], Tensor], image: Tensor, grid: int, strides: Sequence[float]
) -> Tensor:
    """Concatenate the boxes that ``predict`` finds in all PASSES.

    Args:
        predict: (B, C, h, w) -> (B, n, no), the first four columns centre x, y, width, height in pixels.
        image: (B, C, H, W).
        grid: pixels of which the sides of an image must be multiples.
        strides: pixels per cell of each detection level, in the order of its boxes, fine to coarse.

    Returns:
        (B, N, no) in pixels of ``image``, without the coarsest level at the full size and the finest at the smallest
        size: the other passes see objects of these sizes better. A network with one level keeps all boxes.
    """
    passes = []
    for ratio, mirrored in PASSES:
        boxes = predict(scale_img(image.flip(-1) if mirrored else image, ratio, gs=grid))  # (B, n, no)
        x, rest = (boxes[..., :4] / ratio).split((1, 3), dim=-1)  # (B, n, 1), (B, n, 3)
        if mirrored:
            x = image.shape[-1] - x
        passes.append(torch.cat((x, rest, boxes[..., 4:]), dim=-1))  # (B, n, no)
    if len(strides) == 1:
        return torch.cat(passes, dim=1)
    cells = sum((strides[-1] / stride) ** 2 for stride in strides)  # of all levels, per cell of the coarsest
    full = passes[0]
    coarsest = int(full.shape[1] / cells)  # boxes of the last level
    passes[0] = full[:, : full.shape[1] - coarsest]
    smallest = passes[-1]
    finest = int(smallest.shape[1] / cells) * int((strides[-1] / strides[0]) ** 2)  # boxes of the first level
    passes[-1] = smallest[:, finest:]
    return torch.cat(passes, dim=1)
