"""Training images made of several: the mosaic of four, and objects copied within it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Protocol, TypedDict

import cv2
import numpy as np

from utils.augmentations import GREY, random_perspective
from utils.boxes import xywhn2xyxy
from utils.labels import Segments
from utils.segments import xyn2xy

HIDDEN_PART_ALLOWED = 0.30  # a pasted object may cover less than this part of any other


class MosaicSource(Protocol):
    """What a mosaic needs of a data set."""

    img_size: int
    mosaic_border: tuple[int, int]
    indices: Sequence[int]
    labels: list[np.ndarray]
    segments: list[Segments]
    hyp: Mapping[str, float]

    def load_image(self, index: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]: ...


def load_mosaic(dataset: MosaicSource, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Place image ``index`` and three random ones around a random point, and cut a square out of that.

    Returns:
        Image (s, s, 3) uint8 BGR with s = ``img_size`` (one less if that is odd); rows (N, 5): class, x1, y1, x2, y2
        in its pixels.
    """
    side = dataset.img_size
    centre_y, centre_x = (int(random.uniform(-border, 2 * side + border)) for border in dataset.mosaic_border)
    chosen = [index, *random.choices(dataset.indices, k=3)]
    random.shuffle(chosen)

    canvas = np.full((2 * side, 2 * side, 3), GREY[0], np.uint8)
    tile_labels, segments = [], []
    for tile, image_index in enumerate(chosen):
        image, _, (height, width) = dataset.load_image(image_index)
        left, top = place_tile(canvas, image, tile, centre_x, centre_y)
        rows = dataset.labels[image_index].copy()
        rows[:, 1:] = xywhn2xyxy(rows[:, 1:], width, height, left, top).clip(0, 2 * side)
        tile_labels.append(rows)
        segments += [
            None if polygon is None else xyn2xy(polygon, width, height, left, top).clip(0, 2 * side)
            for polygon in dataset.segments[image_index] or [None] * len(rows)
        ]
    hyp = dataset.hyp
    canvas, labels, segments = copy_paste(canvas, np.concatenate(tile_labels), segments, hyp.get("copy_paste", 0.0))
    return random_perspective(canvas, labels, segments, border=dataset.mosaic_border, **warp_limits(hyp))


class WarpLimits(TypedDict):
    """The hyperparameters of ``random_perspective``."""

    degrees: float
    translate: float
    scale: float
    shear: float
    perspective: float


def warp_limits(hyp: Mapping[str, float]) -> WarpLimits:
    """Pick the arguments of ``random_perspective`` from the hyperparameters; what is absent is 0."""
    return {
        "degrees": hyp.get("degrees", 0.0),
        "translate": hyp.get("translate", 0.0),
        "scale": hyp.get("scale", 0.0),
        "shear": hyp.get("shear", 0.0),
        "perspective": hyp.get("perspective", 0.0),
    }


def place_tile(canvas: np.ndarray, image: np.ndarray, tile: int, centre_x: int, centre_y: int) -> tuple[int, int]:
    """Copy an image onto a canvas so that one of its corners touches the centre point; what sticks out is cut off.

    ``tile`` is 0 to 3: the image lies to the top left, top right, bottom left or bottom right of the centre.
    Returns the canvas coordinates (x, y) of the image's top left corner, which may be negative.
    """
    height, width = image.shape[:2]
    left = centre_x if tile % 2 else centre_x - width
    top = centre_y if tile >= 2 else centre_y - height
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + width, canvas.shape[1]), min(top + height, canvas.shape[0])
    canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
    return left, top


def copy_paste(
    im: np.ndarray, labels: np.ndarray, segments: Segments, p: float = 0.5
) -> tuple[np.ndarray, np.ndarray, Segments]:
    """Paste mirror images of random objects that have a polygon (https://arxiv.org/abs/2012.07177).

    Args:
        im: (H, W, 3), changed in place. labels: rows (N, 5): class, x1, y1, x2, y2 in pixels.
        segments: for each row its polygon (P, 2) in pixels, or None. p: part of the polygons to paste.

    Returns:
        The image, and labels and segments with the pasted objects at their ends. An object that would hide 30 % or more
        of another one is left out.
    """
    candidates = [row for row, polygon in enumerate(segments) if polygon is not None]
    amount = round(p * len(candidates))
    if not amount:
        return im, labels, segments
    width = im.shape[1]
    mask = np.zeros(im.shape[:2], np.uint8)
    segments = list(segments)
    for row in random.sample(candidates, k=amount):
        polygon, box = segments[row], labels[row, [0, 3, 2, 1, 4]]
        box[[1, 3]] = width - box[[1, 3]]
        if polygon is None or (_hidden_part(box[1:], labels[:, 1:5]) >= HIDDEN_PART_ALLOWED).any():
            continue
        labels = np.concatenate((labels, box[None]))
        segments.append(np.stack((width - polygon[:, 0], polygon[:, 1]), 1))
        cv2.drawContours(mask, [polygon.astype(np.int32)], -1, 1, cv2.FILLED)
    cv2.copyTo(cv2.flip(im, 1), cv2.flip(mask, 1), im)
    return im, labels, segments


def _hidden_part(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Part of each of ``others`` (N, 4) that lies under ``box`` (4,), corners -> (N,)."""
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    return shared.clip(0).prod(1) / (areas + 1e-16)
