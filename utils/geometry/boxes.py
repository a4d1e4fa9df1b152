"""Conversions between box formats, and the overlap of boxes.

Formats: ``xyxy`` = left, top, right, bottom; ``xywh`` = centre x, centre y, width, height; a trailing ``n`` = divided
by the width and height of the image (0 to 1). All functions take tensors or arrays of shape (..., 4+): the box is in
the first four columns, and further columns are carried along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Boxes = TypeVar("Boxes", "torch.Tensor", np.ndarray)


def as_array(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """Convert to NumPy, without a copy where possible."""
    return values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()


def _floating_copy(boxes: Boxes) -> Boxes:
    """Return a copy that can hold fractions: integers become the default floating type."""
    if isinstance(boxes, np.ndarray):
        return np.array(boxes, dtype=None if np.issubdtype(boxes.dtype, np.floating) else np.float64)
    return boxes.clone() if boxes.is_floating_point() else boxes.float()


def xyxy2xywh(x: Boxes) -> Boxes:
    """Corners (..., 4+) -> centre and size, as a copy."""
    result = _floating_copy(x)
    first, second = x[..., 0:2], x[..., 2:4]
    result[..., 0:2] = (first + second) / 2
    result[..., 2:4] = second - first
    return result


def xywh2xyxy(x: Boxes) -> Boxes:
    """Centre and size (..., 4+) -> corners, as a copy."""
    result = _floating_copy(x)
    centre, half_size = x[..., 0:2], x[..., 2:4] / 2
    result[..., 0:2] = centre - half_size
    result[..., 2:4] = centre + half_size
    return result


def xywhn2xyxy(x: Boxes, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Boxes:
    """Normalised centre and size (..., 4+) -> corners in pixels, of an image of ``w`` x ``h`` at (padw, padh)."""
    result = xywh2xyxy(x)
    result[..., 0:4:2] = result[..., 0:4:2] * w + padw
    result[..., 1:4:2] = result[..., 1:4:2] * h + padh
    return result


def xyxy2xywhn(x: Boxes, w: float = 640, h: float = 640, clip: bool = False, eps: float = 0.0) -> Boxes:
    """Corners in pixels (..., 4+) -> centre and size divided by ``w`` and ``h``, as a copy.

    ``clip`` first clips a copy of the corners to [0, w - eps] and [0, h - eps].
    """
    corners = clip_coords(_floating_copy(x), (h - eps, w - eps)) if clip else x
    result = xyxy2xywh(corners)
    result[..., 0:4:2] /= w
    result[..., 1:4:2] /= h
    return result


def scale_coords(
    img1_shape: Sequence[float],
    coords: Boxes,
    img0_shape: Sequence[float],
    ratio_pad: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Boxes:
    """Map corners from a letterboxed image to the original image and clip them to it, in place; returns ``coords``.

    Args:
        img1_shape: (height, width) of the letterboxed image, in which ``coords`` are given.
        coords: floating-point corners (..., 4+) in pixels.
        img0_shape: (height, width, ...) of the original image.
        ratio_pad: ((height ratio, width ratio), (left padding, top padding)) as recorded by the loader; computed
            from the two shapes if absent. As in YOLOv5, the height ratio applies to both axes.
    """
    if ratio_pad is None:
        boxed_height, boxed_width = img1_shape[:2]
        height, width = img0_shape[:2]
        gain = min(boxed_height / height, boxed_width / width)
        top = (boxed_height - height * gain) / 2
        left = (boxed_width - width * gain) / 2
    else:
        gain = ratio_pad[0][0]
        left, top = ratio_pad[1]
    coords[..., 0:4:2] -= left
    coords[..., 1:4:2] -= top
    coords[..., 0:4] /= gain
    return clip_coords(coords, img0_shape)


def clip_coords(boxes: Boxes, shape: Sequence[float]) -> Boxes:
    """Clip corners (..., 4+) to an image of ``shape`` (height, width, ...), in place; returns ``boxes``."""
    for start, limit in ((0, shape[1]), (1, shape[0])):
        values = boxes[..., start:4:2]  # a view: the corners of one axis
        if isinstance(values, np.ndarray):
            np.clip(values, 0, limit, out=values)
        else:
            values.clamp_(0, limit)
    return boxes


def box_iou(box1: Boxes, box2: Boxes, eps: float = 1e-7) -> Boxes:
    """Intersection over union of each of ``box1`` (N, 4) with each of ``box2`` (M, 4), both as corners -> (N, M).

    ``eps`` is added to the union, so two empty boxes give 0.
    """
    if isinstance(box1, np.ndarray):
        library: Any = np
    else:
        import torch as library
    low = library.maximum(box1[:, None, :2], box2[None, :, :2])  # (N, M, 2)
    high = library.minimum(box1[:, None, 2:4], box2[None, :, 2:4])  # (N, M, 2)
    width_height = (high - low).clip(0)  # (N, M, 2)
    shared = width_height[..., 0] * width_height[..., 1]  # (N, M)
    area1 = (box1[:, 2] - box1[:, 0]) * (box1[:, 3] - box1[:, 1])  # (N,)
    area2 = (box2[:, 2] - box2[:, 0]) * (box2[:, 3] - box2[:, 1])  # (M,)
    return shared / (area1[:, None] + area2[None] - shared + eps)
