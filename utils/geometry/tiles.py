"""Images placed on a grey canvas, and the part of it that is visible through a warp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

GREY = (114, 114, 114)  # the colour of all padding
CHANNELS = 4  # of an image to be warped: OpenCV warps four channels more than twice as fast as three

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels; column x2 and row y2 lie outside


class Tile(NamedTuple):
    """An image (h, w, 3 or 4) on the canvas, with its top left corner at (x, y)."""

    image: np.ndarray
    x: int = 0
    y: int = 0

    @property
    def box(self) -> Box:
        """Position on the canvas."""
        return self.x, self.y, self.x + self.image.shape[1], self.y + self.image.shape[0]


class Scene(NamedTuple):
    """A picture that is not rendered yet: tiles on a canvas, seen through a warp.

    Attributes:
        tiles: they do not overlap; parts beyond the canvas are cut off.
        canvas: (height, width) in pixels.
        matrix: (3, 3) homogeneous, from canvas to picture pixels.
        size: (height, width) of the picture in pixels.
    """

    tiles: Sequence[Tile]
    canvas: tuple[int, int]
    matrix: np.ndarray
    size: tuple[int, int]

    def render(self, upside_down: bool = False, mirrored: bool = False) -> np.ndarray:
        """Render the picture (height, width, 3 or 4): BGR, and maybe a meaningless fourth channel. Do not write to it.

        Flips are part of the warp. Only the part of the canvas that is visible in the picture is laid out.
        """
        height, width = self.size
        matrix = self.matrix
        if upside_down or mirrored:
            flip = np.eye(3)
            if mirrored:
                flip[0] = -1, 0, width - 1
            if upside_down:
                flip[1] = 0, -1, height - 1
            matrix = flip @ matrix
        first = self.tiles[0]
        if len(self.tiles) == 1 and first.box == (0, 0, width, height) and (matrix == np.eye(3)).all():
            return first.image
        left, top, right, bottom = self._visible(matrix)
        if right <= left or bottom <= top:
            return np.full((height, width, CHANNELS), GREY[0], np.uint8)
        visible = compose(self.tiles, (left, top, right, bottom))  # (bottom - top, right - left, 4)
        matrix = matrix @ [[1, 0, left], [0, 1, top], [0, 0, 1]]  # from pixels of the visible part
        if matrix[2, :2].any():
            return cv2.warpPerspective(visible, matrix, (width, height), borderValue=GREY)
        return cv2.warpAffine(visible, matrix[:2], (width, height), borderValue=GREY)

    def _visible(self, matrix: np.ndarray) -> Box:
        """Box of the canvas that the picture is interpolated from; with tilt, all of it."""
        bottom, right = self.canvas
        if matrix[2, :2].any():
            return 0, 0, right, bottom
        height, width = self.size
        corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])  # (3, 4) of the picture
        corners = np.linalg.inv(matrix)[:2] @ corners  # (2, 4) on the canvas
        x1, y1 = corners.min(1).tolist()
        x2, y2 = corners.max(1).tolist()
        return max(int(x1) - 2, 0), max(int(y1) - 2, 0), min(int(x2) + 3, right), min(int(y2) + 3, bottom)


def compose(tiles: Sequence[Tile], box: Box) -> np.ndarray:
    """Lay out the tiles within a box of the canvas, on grey -> (h, w, 4)."""
    left, top, right, bottom = box
    canvas = np.full((bottom - top, right - left, CHANNELS), GREY[0], np.uint8)
    for tile in tiles:
        x1, y1, x2, y2 = tile.box
        x1, y1 = max(x1, left), max(y1, top)
        x2, y2 = min(x2, right), min(y2, bottom)
        if x1 < x2 and y1 < y2:
            source = tile.image[y1 - tile.y : y2 - tile.y, x1 - tile.x : x2 - tile.x]
            target = canvas[y1 - top : y2 - top, x1 - left : x2 - left]
            if source.shape[2] == CHANNELS:
                target[:] = source
            else:
                cv2.cvtColor(source, cv2.COLOR_BGR2BGRA, dst=target)
    return canvas
