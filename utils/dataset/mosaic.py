"""Training images made of several: mosaics of four, and objects copied within them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import cv2
import numpy as np

from utils.augmentations import draw_warp, warp_labels, warp_limits
from utils.dataset.labels import Segments
from utils.geometry.boxes import xywh2xyxy
from utils.geometry.segments import xyn2xy
from utils.geometry.tiles import Scene, Tile, compose

HIDDEN_PART_ALLOWED = 0.30  # a pasted object must cover less than this share of every other


class MosaicSource(Protocol):
    """A data set, as far as mosaics need it."""

    img_size: int
    mosaic_border: tuple[int, int]
    indices: Sequence[int]
    hyp: Mapping[str, float]

    @property
    def labels(self) -> Sequence[np.ndarray]: ...

    @property
    def segments(self) -> Sequence[Segments]: ...

    def load_image(self, index: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]: ...


def draw_mosaic(dataset: MosaicSource, index: int, usable: Callable[[int], int] = int) -> tuple[Scene, np.ndarray]:
    """Place image ``index`` and three random ones around a random point of a canvas, and draw a warp of it.

    All random numbers are drawn here; the pixels are made later, by ``Scene.render``.

    Args:
        dataset: to take the images from.
        index: the first image.
        usable: maps the index of each of the other three to that of the image to take in its place.

    Returns:
        The scene, of side s = ``img_size`` (one less if that is odd), on a canvas of side 2 s; and rows (N, 5): class,
        x1, y1, x2, y2 in pixels of the scene.
    """
    side, hyp = dataset.img_size, dataset.hyp
    border_y, border_x = dataset.mosaic_border
    centre_y = int(random.uniform(-border_y, 2 * side + border_y))
    centre_x = int(random.uniform(-border_x, 2 * side + border_x))
    indices = [index, *map(usable, random.choices(dataset.indices, k=3))]
    random.shuffle(indices)

    tiles: list[Tile] = []
    frames = []  # width, height, x, y of each tile on the canvas
    segments: Segments = []
    for corner, number in enumerate(indices):
        tile = place_tile(dataset.load_image(number)[0], corner, centre_x, centre_y)
        tiles.append(tile)
        height, width = tile.image.shape[:2]
        frames.append((width, height, tile.x, tile.y))
        for polygon in dataset.segments[number] or [None] * len(dataset.labels[number]):
            if polygon is not None:
                polygon = xyn2xy(polygon, width, height, tile.x, tile.y).clip(0, 2 * side)  # (P, 2)
            segments.append(polygon)
    labels = np.concatenate([dataset.labels[number] for number in indices])  # (N, 5): class, normalised xywh
    counts = [len(dataset.labels[number]) for number in indices]
    frame = np.repeat(np.array(frames, labels.dtype), counts, axis=0)  # (N, 4), of each label's tile
    boxes = xywh2xyxy(labels[:, 1:]) * frame[:, [0, 1, 0, 1]] + frame[:, [2, 3, 2, 3]]  # (N, 4) on the canvas
    labels[:, 1:] = boxes.clip(0, 2 * side)

    if hyp.get("copy_paste", 0.0) and any(polygon is not None for polygon in segments):
        canvas = compose(tiles, (0, 0, 2 * side, 2 * side))
        canvas, labels, segments = copy_paste(canvas, labels, segments, hyp["copy_paste"])
        tiles = [Tile(canvas)]
    size = 2 * (side + dataset.mosaic_border[0]), 2 * (side + dataset.mosaic_border[1])
    matrix, zoom = draw_warp((2 * side, 2 * side), size, warp_limits(hyp))
    return Scene(tiles, (2 * side, 2 * side), matrix, size), warp_labels(labels, segments, matrix, zoom, size)


def place_tile(image: np.ndarray, corner: int, centre_x: int, centre_y: int) -> Tile:
    """Place an image so that one of its corners touches the centre point; it may extend beyond the canvas.

    ``corner`` 0 to 3 puts the image to the top left, top right, bottom left or bottom right of the centre.
    """
    height, width = image.shape[:2]
    x = centre_x if corner % 2 else centre_x - width
    y = centre_y if corner >= 2 else centre_y - height
    return Tile(image, x, y)


def copy_paste(
    im: np.ndarray, labels: np.ndarray, segments: Segments, p: float = 0.5
) -> tuple[np.ndarray, np.ndarray, Segments]:
    """Paste mirror images of random objects that have a polygon (https://arxiv.org/abs/2012.07177).

    Args:
        im: (H, W, 3), changed in place.
        labels: rows (N, 5): class, x1, y1, x2, y2 in pixels.
        segments: for each row its polygon (P, 2) in pixels, or None.
        p: share of the polygons to paste.

    Returns:
        The image, and labels and segments with the pasted objects at the end. An object that would hide 30 % or more
        of another one is not pasted.
    """
    candidates = [row for row, polygon in enumerate(segments) if polygon is not None]
    amount = round(p * len(candidates))
    if not amount:
        return im, labels, segments
    width = im.shape[1]
    mask = np.zeros(im.shape[:2], np.uint8)
    segments = list(segments)
    for row in random.sample(candidates, k=amount):
        polygon = segments[row]
        box = labels[row, [0, 3, 2, 1, 4]]  # (5,): left and right change places
        box[[1, 3]] = width - box[[1, 3]]
        if polygon is None or (_hidden_part(box[1:], labels[:, 1:5]) >= HIDDEN_PART_ALLOWED).any():
            continue
        labels = np.concatenate((labels, box[None]))
        segments.append(np.stack((width - polygon[:, 0], polygon[:, 1]), 1))
        cv2.drawContours(mask, [polygon.astype(np.int32)], -1, 1, cv2.FILLED)
    cv2.copyTo(cv2.flip(im, 1), cv2.flip(mask, 1), im)
    return im, labels, segments


def _hidden_part(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Share of the area of each of ``others`` (N, 4) that lies under ``box`` (4,), all as corners -> (N,)."""
    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])  # (N, 2)
    areas = (others[:, 2:] - others[:, :2]).prod(1)  # (N,)
    return shared.clip(0).prod(1) / (areas + 1e-16)
