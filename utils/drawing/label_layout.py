"""Positions of labels in a picture of many boxes: beside their box, where they hide no object and no other label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HIDDEN_SHARE = 0.1  # of another box that a label may cover
INNER_SHARE = 0.25  # of the sides of its own box that a label inside may take up in height; in width all


class LabelLayout:
    """Finds room for labels one after the other; those that come first have the choice.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2 of all objects in pixels.
        reserved: (M, 4) the labels so far.
    """

    def __init__(self, boxes: NDArray, frame: tuple[int, int]) -> None:
        """Begin with no labels in a picture of ``frame`` (width, height) pixels."""
        self.boxes = boxes
        self.reserved = np.zeros((0, 4))
        self._frame = np.array([*frame, *frame])
        self._areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1)  # (N,)

    def reserve(self, index: int, size: tuple[int, int]) -> tuple[int, int] | None:
        """Reserve room for a label of ``size`` (width, height) at box ``index``.

        Above the box is tried first, then below it, then inside a large one.

        Returns:
            The upper left corner of the label in pixels; None if it would hide something everywhere.
        """
        corners = self._candidates(index, size)  # (K, 2)
        labels = np.concatenate((corners, corners + size), 1)  # (K, 4)
        inside = (labels[:, :2] >= 0).all(1) & (labels <= self._frame).all(1)  # (K,)
        hidden = _shared_area(labels, self.boxes) / self._areas  # (K, N)
        hidden[:, index] = 0
        clear = (hidden <= HIDDEN_SHARE).all(1) & ~_shared_area(labels, self.reserved).any(1)  # (K,)
        usable = np.flatnonzero(inside & clear)
        if not len(usable):
            return None
        chosen = labels[usable[0]]
        self.reserved = np.concatenate((self.reserved, chosen[None]))
        return int(chosen[0]), int(chosen[1])

    def _candidates(self, index: int, size: Sequence[int]) -> NDArray:
        """Upper left corners (K, 2) to try for a label, the best first."""
        width, height = size
        left, top, right, bottom = np.round(self.boxes[index]).astype(int)
        shifted = min(max(left, 0), max(int(self._frame[0]) - width, 0))  # into the picture, above and below
        corners = [(shifted, top - height), (right - width, top - height), (shifted, bottom), (right - width, bottom)]
        if width <= right - left and height <= INNER_SHARE * (bottom - top):
            corners.append((left, top))
        return np.array(corners)


def _shared_area(first: NDArray, second: NDArray) -> NDArray:
    """Areas that boxes (K, 4) share with boxes (N, 4) -> (K, N)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])  # (K, N, 2)
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return (high - low).clip(0).prod(2)
