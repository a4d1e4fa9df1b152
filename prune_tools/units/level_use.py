"""The head levels to which training assigns the objects of a data set, by their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.description import anchors_in_pixels
from models.yolo import DetectionModel
from utils.dataset.label_cache import LabelTable


@dataclass(frozen=True)
class LevelUse:
    """Objects and the levels of a head that learn them.

    An object belongs to a level if its sides and those of an anchor there differ by less than a factor, ``anchor_t`` of
    the hyperparameters. Most objects belong to several levels, some to none.

    Attributes:
        sides: (n,) longer side of each object in pixels of ``image_size``.
        assigned: (n, nl) bool.
        image_size: pixels of the longer side of an image.
    """

    sides: np.ndarray
    assigned: np.ndarray
    image_size: int

    @classmethod
    def of(cls, model: DetectionModel, table: LabelTable, image_size: int, anchor_t: float) -> LevelUse:
        """Assign the objects of ``table``, images being scaled to ``image_size`` pixels."""
        head: Any = model.model[-1]
        scale = image_size / table.sizes.max(1, keepdims=True)  # (N, 1) of each image
        counts = [len(labels) for labels in table.labels]
        pixels = np.repeat(table.sizes * scale, counts, axis=0)  # (n, 2) of the image of each object
        boxes = np.concatenate([np.zeros((0, 2)), *(labels[:, 3:5] for labels in table.labels)]) * pixels  # (n, 2)
        boxes = boxes[(boxes > 0).all(1)]
        anchors = anchors_in_pixels(head).view(head.nl, head.na, 2).numpy()  # (nl, na, 2)
        ratio = boxes[:, None, None] / anchors  # (n, nl, na, 2)
        assigned = (np.maximum(ratio, 1 / ratio).max(3) < anchor_t).any(2)  # (n, nl)
        return cls(boxes.max(1), assigned, image_size)

    def lost(self, levels: Sequence[int]) -> float:
        """Share of all objects that belong to some of these levels and to no other one."""
        others = [level for level in range(self.assigned.shape[1]) if level not in levels]
        lost = self.assigned[:, list(levels)].any(1) & ~self.assigned[:, others].any(1)  # (n,)
        return float(lost.mean()) if len(self.assigned) else 0.0

    def sizes(self) -> str:
        """The sizes of the objects in words."""
        if not len(self.sides):
            return "the training images have no objects"
        low, middle, high = np.percentile(self.sides, (5, 50, 95))
        return (
            f"the longer sides of the {len(self.sides):,} training objects are {low:.0f} to {high:.0f} pixels "
            f"(5th to 95th percentile) at {self.image_size} pixels, median {middle:.0f}"
        )

    def shares(self, strides: Sequence[int]) -> str:
        """The shares of the objects that belong to each level, and of those that belong to it alone, in words."""
        parts = [
            f"stride {stride} {share:.1%} ({self.lost([level]):.1%} alone)"
            for level, (stride, share) in enumerate(zip(strides, self._shares(), strict=True))
        ]
        return ", ".join(parts)

    def _shares(self) -> np.ndarray:
        """(nl,) share of all objects that belong to each level."""
        return self.assigned.mean(0) if len(self.assigned) else np.zeros(self.assigned.shape[1])
