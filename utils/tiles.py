"""Images that lie side by side on a grey canvas, drawn through a warp without laying out the canvas first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

GREY = (114, 114, 114)  # the colour of every padding
SLACK = 0.01  # pixels by which a seam is drawn wider, so that rounding leaves no gap beside it

Box = tuple[int, int, int, int]  # x1, y1, x2, y2; the last column and row lie outside


class Tile(NamedTuple):
    """An image (h, w, 3) BGR on the canvas, its top left corner at (x, y)."""

    image: np.ndarray
    x: int = 0
    y: int = 0

    @property
    def box(self) -> Box:
        """Where it lies on the canvas."""
        return self.x, self.y, self.x + self.image.shape[1], self.y + self.image.shape[0]

    def cut(self, box: Box) -> Tile:
        """The part within a box that it overlaps, as a view."""
        x1, y1, x2, y2 = _overlap(self.box, box)
        return Tile(self.image[y1 - self.y : y2 - self.y, x1 - self.x : x2 - self.x], x1, y1)


class Scene(NamedTuple):
    """An image that is not drawn yet: tiles on a canvas, and how they are seen; see ``warp_tiles``."""

    tiles: Sequence[Tile]
    matrix: np.ndarray
    size: tuple[int, int]
    seams: tuple[int, int] | None = None

    def draw(self, upside_down: bool = False, mirrored: bool = False) -> np.ndarray:
        """The pixels (height, width, 3) BGR; they may be those of the only tile, and must not be written to."""
        height, width = self.size
        matrix = self.matrix
        if upside_down or mirrored:
            flip = np.eye(3)
            if mirrored:
                flip[0, 0], flip[0, 2] = -1, width - 1
            if upside_down:
                flip[1, 1], flip[1, 2] = -1, height - 1
            matrix = flip @ matrix
        only = self.tiles[0]
        if len(self.tiles) == 1 and only.box == (0, 0, width, height) and (matrix == np.eye(3)).all():
            return only.image
        return warp_tiles(self.tiles, matrix, self.size, self.seams)


def compose(tiles: Sequence[Tile], box: Box) -> Tile:
    """Lay out what a box of the canvas shows: the tiles, and grey between them."""
    x1, y1, x2, y2 = box
    canvas = np.full((y2 - y1, x2 - x1, 3), GREY[0], np.uint8)
    for tile in tiles:
        left, top, right, bottom = _overlap(tile.box, box)
        if left < right and top < bottom:
            canvas[top - y1 : bottom - y1, left - x1 : right - x1] = tile.cut(box).image
    return Tile(canvas, x1, y1)


def warp_tiles(
    tiles: Sequence[Tile], matrix: np.ndarray, size: tuple[int, int], seams: tuple[int, int] | None = None
) -> np.ndarray:
    """Draw the canvas with these tiles through a warp.

    Without tilt, rotation and shear each tile is drawn straight to its place in the output, and then the seams, where
    two tiles blend. Otherwise that part of the canvas is laid out which the output shows.

    Args:
        tiles: they do not overlap. matrix: (3, 3) from canvas to output pixels. size: height and width of the output.
        seams: (x, y) of the column and the row of the canvas at which tiles touch; None with one tile.

    Returns:
        (height, width, 3) uint8.
    """
    height, width = size
    if matrix[2, :2].any():
        seen = compose(tiles, _hull(tiles)) if len(tiles) > 1 else tiles[0]
        shift = np.array([[1, 0, seen.x], [0, 1, seen.y], [0, 0, 1.0]])
        return cv2.warpPerspective(seen.image, matrix @ shift, (width, height), borderValue=GREY)
    backward = np.linalg.inv(matrix)
    output = np.full((height, width, 3), GREY[0], np.uint8)
    if backward[0, 1] or backward[1, 0]:
        seen = compose(tiles, _overlap(_hull(tiles), _seen(backward, size))) if len(tiles) > 1 else tiles[0]
        _draw(output, (0, 0, width, height), seen, backward)
        return output
    for tile in tiles:
        _draw(output, _shadow(tile.box, backward, size), tile, backward)
    if seams is not None:
        (x, y), (x1, y1, x2, y2) = seams, _hull(tiles)
        column = compose(tiles, (x - 2, y1, x + 2, y2))
        _draw(output, _shadow((x - SLACK, y1, x + SLACK, y2), backward, size), column, backward)
        row = compose(tiles, (x1, y - 2, x2, y + 2))
        _draw(output, _shadow((x1, y - SLACK, x2, y + SLACK), backward, size), row, backward)
    return output


def _draw(output: np.ndarray, place: Box, tile: Tile, backward: np.ndarray) -> None:
    """Fill a box of the output with what the tile, on grey, looks like there; ``backward`` leads to the canvas."""
    x1, y1, x2, y2 = place
    if x1 >= x2 or y1 >= y2 or not tile.image.size:
        return
    matrix = backward[:2].copy()
    matrix[:, 2] += matrix[:, 0] * x1 + matrix[:, 1] * y1 - (tile.x, tile.y)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(tile.image, matrix, (x2 - x1, y2 - y1), output[y1:y2, x1:x2], flags, borderValue=GREY)


def _shadow(box: tuple[float, float, float, float], backward: np.ndarray, size: tuple[int, int]) -> Box:
    """Output pixels which a box of the canvas has a share in; the warp has no rotation and no shear."""
    spans = []
    for axis in (0, 1):
        scale, shift = backward[axis, axis], backward[axis, 2]
        ends = sorted(((box[axis] - 1 - shift) / scale, (box[axis + 2] - shift) / scale))
        spans.append((max(math.ceil(ends[0]), 0), min(math.floor(ends[1]) + 1, size[1 - axis])))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _seen(backward: np.ndarray, size: tuple[int, int]) -> Box:
    """The box of the canvas from which the pixels of the output are made."""
    height, width = size
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ backward.T
    (x1, y1), (x2, y2) = np.floor(corners.min(0)[:2]).astype(int), np.ceil(corners.max(0)[:2]).astype(int)
    return int(x1) - 1, int(y1) - 1, int(x2) + 2, int(y2) + 2


def _hull(tiles: Sequence[Tile]) -> Box:
    """The smallest box around all tiles."""
    boxes = [tile.box for tile in tiles]
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _overlap(first: Box, second: Box) -> Box:
    """What two boxes share; x2 <= x1 or y2 <= y1 if nothing."""
    return max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3])
