"""Confusion matrix of a detector: which class is taken for which, and what is missed or invented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.background import Draw, at_once
from utils.boxes import as_array, box_iou
from utils.charts import plot_confusion_matrix

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Rows = torch.Tensor | NDArray


class ConfusionMatrix:
    """Counts of (predicted class, true class); the last row and column stand for the background.

    ``matrix`` is (nc + 1, nc + 1), rows predicted, columns true. A label without a match counts in the background row,
    a detection without a match in the background column. YOLOv5 v6.2 leaves out the stray detections of an image that
    has no match at all, and of an image without labels; here every one of them counts.
    """

    def __init__(self, nc: int, conf: float = 0.25, iou_thres: float = 0.45):
        self.nc, self.conf, self.iou_thres = nc, conf, iou_thres
        self.matrix: NDArray = np.zeros([nc + 1] * 2)

    def process_batch(self, detections: Rows | None, labels: Rows) -> None:
        """Add one image, of tensors or arrays.

        ``detections`` (N, 6): x1, y1, x2, y2, confidence, class, or None for none; those up to the confidence limit are
        ignored. ``labels`` (M, 5): class, x1, y1, x2, y2 in the same pixels (without detections, (M,) classes do).
        Each detection goes to the label that it overlaps most, of whatever class; of several the closest gets it.
        """
        found, rows = np.zeros((0, 6)) if detections is None else as_array(detections), as_array(labels)
        kept = found[found[:, 4] > self.conf]
        true = (rows[:, 0] if rows.ndim > 1 else rows).astype(int)
        predicted = kept[:, 5].astype(int)
        partner = np.full(len(true), -1)  # the detection that each label goes to
        if len(kept) and len(true):
            overlap = box_iou(kept[:, :4], rows[:, 1:5])  # (N, M)
            favourite = overlap.argmax(1)
            best = overlap.max(1)
            claimants = np.flatnonzero(best > self.iou_thres)
            claimants = claimants[np.argsort(best[claimants], kind="stable")]
            partner[favourite[claimants]] = claimants  # the closest is written last
        matched = partner >= 0
        stray = np.ones(len(predicted), dtype=bool)
        stray[partner[matched]] = False
        np.add.at(self.matrix, (predicted[partner[matched]], true[matched]), 1)
        np.add.at(self.matrix, (np.full((~matched).sum(), self.nc), true[~matched]), 1)
        np.add.at(self.matrix, (predicted[stray], np.full(stray.sum(), self.nc)), 1)

    def tp_fp(self) -> tuple[NDArray, NDArray]:
        """True and false positives of each class, (nc,) each."""
        true_positives = self.matrix.diagonal()
        return true_positives[:-1], (self.matrix.sum(1) - true_positives)[:-1]

    def plot(
        self,
        normalize: bool = True,
        save_dir: str | Path = "",
        names: Mapping[int, str] | Sequence[str] = (),
        draw: Draw = at_once,
    ) -> None:
        """Have ``draw`` save confusion_matrix.png in ``save_dir``; ``normalize`` divides every column by its sum."""
        matrix = self.matrix / (self.matrix.sum(0, keepdims=True) + 1e-9) if normalize else self.matrix
        known = list(names.values()) if isinstance(names, Mapping) else list(names)
        file = Path(save_dir) / "confusion_matrix.png"
        draw(file, partial(plot_confusion_matrix, matrix, [str(name) for name in known], file))
