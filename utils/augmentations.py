"""Augmentation of single images: letterbox, random warp, colours, MixUp.

Images are (H, W, 3) uint8 BGR, boxes are in pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import cv2
import numpy as np

from utils.geometry.segments import resample_segments, segment2box
from utils.geometry.tiles import GREY
from utils.installation import import_own

BOX_AREA_KEPT = 0.10  # a box must keep more than this share of its area in a warp
POLYGON_AREA_KEPT = 0.01  # the same, if the box comes from a polygon
MIXUP_CONCENTRATION = 32.0  # of the beta distribution: the weights of both images are near 0.5

# v6.2's names that other programs import from here; their modules import this one
_ELSEWHERE = {"Albumentations": "utils.other_versions", "copy_paste": "utils.dataset.mosaic"}


def __getattr__(name: str) -> Any:
    """Return a name of ``_ELSEWHERE``, imported on first use."""
    if name in _ELSEWHERE:
        return getattr(import_own(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def letterbox(
    im: np.ndarray,
    new_shape: int | Sequence[int] = (640, 640),
    color: tuple[int, int, int] = GREY,
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Resize an image into a rectangle, keep its aspect ratio and pad the rest evenly.

    Args:
        im: (H, W, C) uint8.
        new_shape: side of a square, or (height, width), in pixels.
        color: padding colour, in the channel order of the image.
        auto: pad only up to the next multiple of ``stride`` instead of to ``new_shape``.
        scaleFill: stretch to ``new_shape`` without padding (``auto`` takes precedence).
        scaleup: allow enlarging.
        stride: grid in pixels that ``auto`` pads to.

    Returns:
        The image (``im`` itself if nothing had to be done), the scale factors (x, y), and the padding (x, y) on each
        side in pixels, which may end in .5: the odd pixel is at the bottom or right.
    """
    height, width = im.shape[:2]
    target_h, target_w = (new_shape, new_shape) if isinstance(new_shape, int) else map(int, new_shape)
    scale = min(target_h / height, target_w / width)
    if not scaleup:
        scale = min(scale, 1.0)
    scale_x = scale_y = scale
    inner_w, inner_h = max(round(width * scale), 1), max(round(height * scale), 1)
    spare_w, spare_h = target_w - inner_w, target_h - inner_h
    if auto:
        spare_w, spare_h = spare_w % stride, spare_h % stride
    elif scaleFill:
        scale_x, scale_y = target_w / width, target_h / height
        inner_w, inner_h = target_w, target_h
        spare_w = spare_h = 0

    if (inner_w, inner_h) != (width, height):
        im = cv2.resize(im, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR)
    left, top = spare_w // 2, spare_h // 2
    if spare_w or spare_h:
        im = cv2.copyMakeBorder(im, top, spare_h - top, left, spare_w - left, cv2.BORDER_CONSTANT, value=color)
    return im, (scale_x, scale_y), (spare_w / 2, spare_h / 2)


# -- geometry ------------------------------------------------------------------------------------------------------


def random_perspective(
    im: np.ndarray,
    targets: np.ndarray | Sequence = (),
    segments: Sequence[np.ndarray | None] = (),
    degrees: float = 10,
    translate: float = 0.1,
    scale: float = 0.1,
    shear: float = 10,
    perspective: float = 0.0,
    border: Sequence[int] = (0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """Rotate, zoom, shear, shift and tilt an image and its boxes by random amounts from the module ``random``.

    Args:
        im: (H, W, 3).
        targets: rows (N, 5): class, x1, y1, x2, y2 in pixels of ``im``.
        segments: empty, or for each row its polygon (P, 2) in pixels, or None; a polygon gives a tighter box.
        degrees: maximum rotation. translate: maximum shift, as a fraction of the output. scale: maximum deviation of
            the zoom from 1. shear: maximum shear in degrees. perspective: maximum tilt, around 0.001.
        border: (vertical, horizontal) pixels added on each side; negative values crop.

    Returns:
        The warped image (``im`` itself if nothing changes), and the rows that stay large enough, moved and clipped.
    """
    size = im.shape[0] + 2 * border[0], im.shape[1] + 2 * border[1]
    limits: WarpLimits = {
        "degrees": degrees,
        "translate": translate,
        "scale": scale,
        "shear": shear,
        "perspective": perspective,
    }
    matrix, zoom = draw_warp(im.shape, size, limits)
    if border[0] or border[1] or (matrix != np.eye(3)).any():
        warp, transform = (cv2.warpPerspective, matrix) if perspective else (cv2.warpAffine, matrix[:2])
        im = warp(im, transform, size[::-1], borderValue=GREY)
    return im, warp_labels(np.asarray(targets), segments, matrix, zoom, size)


class WarpLimits(TypedDict):
    """Maximum amounts of a random warp: the hyperparameters of ``random_perspective``."""

    degrees: float
    translate: float
    scale: float
    shear: float
    perspective: float


def warp_limits(hyp: Mapping[str, float]) -> WarpLimits:
    """Pick the arguments of ``random_perspective`` from the hyperparameters; missing ones are 0."""
    return {
        "degrees": hyp.get("degrees", 0.0),
        "translate": hyp.get("translate", 0.0),
        "scale": hyp.get("scale", 0.0),
        "shear": hyp.get("shear", 0.0),
        "perspective": hyp.get("perspective", 0.0),
    }


def draw_warp(shape: Sequence[int], output: tuple[int, int], limits: WarpLimits) -> tuple[np.ndarray, float]:
    """Draw a random warp of an image of ``shape`` to ``output`` (height, width); see ``random_perspective``.

    In the order of application: centre to the origin, tilt, rotation with zoom, shear, shift.

    Returns:
        Homogeneous matrix (3, 3) from input to output pixels, and the zoom.
    """

    def draw(limit: float, middle: float = 0.0) -> float:
        return random.uniform(middle - limit, middle + limit)

    centre = np.eye(3)
    centre[:2, 2] = -shape[1] / 2, -shape[0] / 2
    tilt = np.eye(3)
    tilt[2, 0] = draw(limits["perspective"])
    tilt[2, 1] = draw(limits["perspective"])
    angle = math.radians(draw(limits["degrees"]))
    zoom = draw(limits["scale"], middle=1.0)
    cosine, sine = zoom * math.cos(angle), zoom * math.sin(angle)
    slant, shift = np.eye(3), np.eye(3)
    rotation = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])  # counter-clockwise: y points down
    slant[0, 1] = math.tan(math.radians(draw(limits["shear"])))
    slant[1, 0] = math.tan(math.radians(draw(limits["shear"])))
    shift[0, 2] = draw(limits["translate"], middle=0.5) * output[1]
    shift[1, 2] = draw(limits["translate"], middle=0.5) * output[0]
    return shift @ slant @ rotation @ tilt @ centre, zoom


def warp_labels(
    rows: np.ndarray, segments: Sequence[np.ndarray | None], matrix: np.ndarray, zoom: float, size: tuple[int, int]
) -> np.ndarray:
    """Move rows (N, 5) by a warp to an output of ``size``, clip them, and keep those that stay large enough."""
    if not len(rows):
        return rows
    boxes, area_kept = _warp_boxes(rows[:, 1:5], segments, matrix, size[1], size[0])
    keep = box_candidates(rows[:, 1:5].T * zoom, boxes.T, area_thr=area_kept)
    rows = rows[keep]
    rows[:, 1:5] = boxes[keep]
    return rows


def _warp_boxes(
    boxes: np.ndarray, segments: Sequence[np.ndarray | None], matrix: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) around the warped corners or polygons, clipped; and the share (N,) of its area each has to keep."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)  # (N, 4 corners, 2)
    corners = _warp_points(corners, matrix)
    moved = np.concatenate((corners.min(1), corners.max(1)), 1)  # (N, 4)
    moved = moved.clip(0, (width, height, width, height))
    area_kept = np.full(len(boxes), BOX_AREA_KEPT)
    rows = [row for row, polygon in enumerate(segments) if polygon is not None]
    if rows:
        polygons = np.stack(resample_segments([segments[row] for row in rows]))  # type: ignore[misc]  # (K, 1000, 2)
        moved[rows] = [segment2box(polygon, width, height) for polygon in _warp_points(polygons, matrix)]
        area_kept[rows] = POLYGON_AREA_KEPT
    return moved, area_kept


def _warp_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a homogeneous matrix (3, 3) to points (..., 2)."""
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    if matrix[2, :2].any():
        moved /= points @ matrix[2, :2, None] + matrix[2, 2]
    return moved


def box_candidates(
    box1: np.ndarray,
    box2: np.ndarray,
    wh_thr: float = 2,
    ar_thr: float = 100,
    area_thr: float | np.ndarray = BOX_AREA_KEPT,
    eps: float = 1e-16,
) -> np.ndarray:
    """Return which boxes are still worth learning after a warp -> (N,) bool.

    Args:
        box1: corners (4, N) before the warp, in pixels. box2: after it.
        wh_thr: width and height must exceed it. ar_thr: the aspect ratio must be below it.
        area_thr: the remaining share of the area must exceed it; one value, or one for each box.
        eps: avoids division by zero.
    """
    width_before, height_before = box1[2:] - box1[:2]
    width, height = box2[2:] - box2[:2]
    aspect = np.maximum(width / (height + eps), height / (width + eps))
    part_left = width * height / (width_before * height_before + eps)
    return (width > wh_thr) & (height > wh_thr) & (part_left > area_thr) & (aspect < ar_thr)


# -- pixels --------------------------------------------------------------------------------------------------------


def augment_hsv(im: np.ndarray, hgain: float = 0.5, sgain: float = 0.5, vgain: float = 0.5) -> None:
    """Scale hue, saturation and value of a BGR image in place, each by a random factor within 1 +- its gain."""
    tables = draw_colours(hgain, sgain, vgain)
    if tables is not None:
        recolour(im, tables, im)


def draw_colours(hgain: float, sgain: float, vgain: float) -> np.ndarray | None:
    """Draw tables (3, 256) uint8 of new hue, saturation and value for each old one; None if all gains are 0."""
    if not (hgain or sgain or vgain):
        return None
    factors = 1 + np.random.uniform(-1, 1, 3) * (hgain, sgain, vgain)
    tables = factors[:, None] * np.arange(256)
    tables[0] %= 180  # OpenCV keeps the hue in half degrees
    return tables.clip(0, 255).astype(np.uint8)


def recolour(im: np.ndarray, tables: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
    """Look up hue, saturation and value of a BGR image in tables (3, 256) -> a new image, or ``into`` an existing one.

    Plane by plane, as OpenCV looks up single channels several times as fast as three at once.
    """
    planes = cv2.split(cv2.cvtColor(im, cv2.COLOR_BGR2HSV))
    changed = [cv2.LUT(plane, table) for plane, table in zip(planes, tables, strict=True)]
    return cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2BGR, dst=into)


def mixup(im: np.ndarray, labels: np.ndarray, im2: np.ndarray, labels2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blend two images of the same shape and join their labels (https://arxiv.org/abs/1710.09412)."""
    weight = np.random.beta(MIXUP_CONCENTRATION, MIXUP_CONCENTRATION)
    blend = cv2.addWeighted(im, weight, im2, 1 - weight, -0.499)  # the shift turns its rounding into truncation
    return blend, np.concatenate((labels, labels2))
