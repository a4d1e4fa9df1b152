"""Images placed on a grey canvas, and what is seen of it through a warp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

GREY = (114, 114, 114)  # the colour of every padding
CHANNELS = 4  # of what is warped: OpenCV warps four channels more than twice as fast as three

Box = tuple[int, int, int, int]  # x1, y1, x2, y2; the last column and row lie outside


class Tile(NamedTuple):
    """An image (h, w, 3 or 4) on the canvas, its top left corner at (x, y)."""

    image: np.ndarray
    x: int = 0
    y: int = 0

    @property
    def box(self) -> Box:
        """Return where it lies on the canvas."""
        return self.x, self.y, self.x + self.image.shape[1], self.y + self.image.shape[0]


class Scene(NamedTuple):
    """A picture that is not rendered yet: tiles on a canvas of a size, seen through a warp.

    Attributes:
        tiles: they do not overlap; what lies beyond the canvas is cut off. canvas: (height, width).
        matrix: (3, 3), from canvas to picture pixels. size: (height, width) of the picture.
    """

    tiles: Sequence[Tile]
    canvas: tuple[int, int]
    matrix: np.ndarray
    size: tuple[int, int]

    def render(self, upside_down: bool = False, mirrored: bool = False) -> np.ndarray:
        """The picture (height, width, 3 or 4): BGR, and a fourth channel that means nothing; not to be written to.

        Flips are part of the warp. Only that part of the canvas is laid out which is seen in the picture.
        """
        height, width = self.size
        matrix = self.matrix
        if upside_down or mirrored:
            turn_x, turn_y = -1 if mirrored else 1, -1 if upside_down else 1
            shift_x, shift_y = (width - 1) * mirrored, (height - 1) * upside_down
            matrix = np.array([[turn_x, 0, shift_x], [0, turn_y, shift_y], [0, 0, 1.0]]) @ matrix
        first = self.tiles[0]
        if len(self.tiles) == 1 and first.box == (0, 0, width, height) and (matrix == np.eye(3)).all():
            return first.image
        x, y, right, bottom = self._seen(matrix)
        if right <= x or bottom <= y:
            return np.full((height, width, CHANNELS), GREY[0], np.uint8)
        visible = compose(self.tiles, (x, y, right, bottom))
        matrix = matrix @ [[1, 0, x], [0, 1, y], [0, 0, 1]]
        if matrix[2, :2].any():
            return cv2.warpPerspective(visible, matrix, (width, height), borderValue=GREY)
        return cv2.warpAffine(visible, matrix[:2], (width, height), borderValue=GREY)

    def _seen(self, matrix: np.ndarray) -> Box:
        """The part of the canvas that pixels of the picture are made of; with tilt, all of it."""
        bottom, right = self.canvas
        if matrix[2, :2].any():
            return 0, 0, right, bottom
        height, width = self.size
        corners = np.linalg.inv(matrix)[:2] @ [[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]]
        (x1, y1), (x2, y2) = corners.min(1).tolist(), corners.max(1).tolist()
        return max(int(x1) - 2, 0), max(int(y1) - 2, 0), min(int(x2) + 3, right), min(int(y2) + 3, bottom)


def compose(tiles: Sequence[Tile], box: Box) -> np.ndarray:
    """Lay out what a box of the canvas shows, tiles on grey -> (h, w, 4)."""
    left, top, right, bottom = box
    canvas = np.full((bottom - top, right - left, CHANNELS), GREY[0], np.uint8)
    for tile in tiles:
        x1, y1, x2, y2 = tile.box
        x1, y1, x2, y2 = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
        if x1 < x2 and y1 < y2:
            part = tile.image[y1 - tile.y : y2 - tile.y, x1 - tile.x : x2 - tile.x]
            place = canvas[y1 - top : y2 - top, x1 - left : x2 - left]
            if part.shape[2] == CHANNELS:
                place[:] = part
            else:
                cv2.cvtColor(part, cv2.COLOR_BGR2BGRA, dst=place)
    return canvas
