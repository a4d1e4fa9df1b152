"""Overlap of boxes, matching of predictions to labels, average precision, fitness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from utils.dataset.classes import names_by_index
from utils.drawing.background import Draw, at_once
from utils.drawing.charts import plot_confusion_matrix, plot_mc_curve, plot_pr_curve, smooth
from utils.geometry.boxes import as_array, box_iou

Rows = torch.Tensor | np.ndarray

__all__ = [
    "ConfusionMatrix",
    "ap_per_class",
    "bbox_ioa",
    "bbox_iou",
    "box_iou",
    "compute_ap",
    "fitness",
    "match_predictions",
    "smooth",
]

FITNESS_WEIGHTS = (0.0, 0.0, 0.1, 0.9)  # precision, recall, mAP at IoU .5, mAP at IoU .5:.95
_CONFIDENCE_GRID = np.linspace(0, 1, 1000)
_RECALL_GRID = np.linspace(0, 1, 101)  # COCO's 101 points
_trapezoid = getattr(np, "trapezoid", None) or getattr(np, "trapz")  # noqa: B009 - numpy 2 renamed it


def bbox_iou(
    box1: torch.Tensor,
    box2: torch.Tensor,
    xywh: bool = True,
    GIoU: bool = False,
    DIoU: bool = False,
    CIoU: bool = False,
    eps: float = 1e-7,
) -> torch.Tensor:
    """Overlap of corresponding boxes, (..., 4) with (..., 4) -> (..., 1); shapes broadcast.

    Boxes are given as centre and size, or as corners with ``xywh=False``, in any unit. If several variants are asked
    for, the most complete one is computed: CIoU before DIoU (https://arxiv.org/abs/1911.08287) before GIoU
    (https://arxiv.org/abs/1902.09630). CIoU's trade-off factor carries no gradient.
    """
    low1, high1, size1 = _spans(box1, xywh)  # (..., 2) each
    low2, high2, size2 = _spans(box2, xywh)
    overlap = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0)  # (..., 2)
    intersection = _area(overlap)  # (..., 1), as everything from here on except hull and shift
    union = _area(size1) + _area(size2) - intersection + eps
    iou = intersection / union
    if not (GIoU or DIoU or CIoU):
        return iou
    hull = torch.maximum(high1, high2) - torch.minimum(low1, low2)  # (..., 2)
    if not (DIoU or CIoU):
        hull_area = _area(hull) + eps
        return iou - (hull_area - union) / hull_area
    shift = (low1 + high1 - low2 - high2) / 2  # (..., 2), between the centres
    distance = shift.square().sum(-1, keepdim=True) / (hull.square().sum(-1, keepdim=True) + eps)
    if not CIoU:
        return iou - distance
    slant1 = torch.atan(size1[..., :1] / (size1[..., 1:] + eps))
    slant2 = torch.atan(size2[..., :1] / (size2[..., 1:] + eps))
    aspect = (slant2 - slant1).square() * (4 / math.pi**2)
    with torch.no_grad():
        # Rounding can give equal boxes an IoU just above 1, and 0 / 0 would follow.
        trade_off = aspect / (aspect - iou + (1 + eps)).clamp(min=eps)
    return iou - distance - trade_off * aspect


def _spans(box: torch.Tensor, xywh: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lower corner, upper corner and size of boxes (..., 4), each (..., 2)."""
    first, second = box[..., :2], box[..., 2:4]
    if xywh:
        return first - second / 2, first + second / 2, second
    return first, second, second - first


def _area(size: torch.Tensor) -> torch.Tensor:
    """Sizes (..., 2) -> areas (..., 1)."""
    return size[..., :1] * size[..., 1:]


def bbox_ioa(box1: NDArray, box2: NDArray, eps: float = 1e-7) -> NDArray:
    """Share of each of ``box2`` (n, 4) that lies in ``box1``: (4,) -> (n,), as in v6.2; (m, 4) -> (m, n), as in v7.0.

    Boxes are corners x1, y1, x2, y2 in any unit.
    """
    first = np.asarray(box1)[..., None, :]  # (..., 1, 4)
    shared = np.minimum(first[..., 2:], box2[:, 2:]) - np.maximum(first[..., :2], box2[:, :2])  # (..., n, 2)
    return shared.clip(0).prod(-1) / ((box2[:, 2:] - box2[:, :2]).prod(-1) + eps)


def match_predictions(detections: Rows, labels: Rows, iou_thresholds: Rows) -> NDArray:
    """Return which detections are correct at which IoU threshold. All arguments may be tensors or arrays.

    Each detection claims the label of its class that it overlaps most. If several claim one label, the first of them
    gets it and the others get nothing, not even their second choice.

    Args:
        detections: (N, 6) x1, y1, x2, y2, confidence, class, by falling confidence.
        labels: (M, 5) class, x1, y1, x2, y2 in the same pixels.
        iou_thresholds: (T,).

    Returns:
        bool (N, T).
    """
    detections = as_array(detections)
    labels = as_array(labels)
    iou_thresholds = as_array(iou_thresholds)
    correct = np.zeros((len(detections), len(iou_thresholds)), dtype=bool)
    if not len(detections) or not len(labels):
        return correct
    overlap = box_iou(detections[:, :4], labels[:, 1:5])  # (N, M)
    overlap[detections[:, 5:6] != labels[:, 0]] = -1
    favourite = overlap.argmax(1)  # (N,) label that each detection claims
    claimant, threshold = np.nonzero(overlap.max(1)[:, None] >= iou_thresholds)  # of (N, T)
    winner = np.full((len(labels), len(iou_thresholds)), -1)  # detection that gets each label
    winner[favourite[claimant[::-1]], threshold[::-1]] = claimant[::-1]  # the first is written last
    label, threshold = np.nonzero(winner >= 0)
    correct[winner[label, threshold], threshold] = True
    return correct


def compute_ap(
    recall: Sequence[float] | NDArray, precision: Sequence[float] | NDArray
) -> tuple[float, NDArray, NDArray]:
    """Area under a precision-recall curve, sampled at COCO's 101 points.

    Both inputs (n,) run from the highest confidence to the lowest. Returns the area, and the precision and recall of
    the envelope (n + 2,).
    """
    recall_points = np.concatenate(([0.0], recall, [1.0]))  # (n + 2,)
    precision_points = np.concatenate(([1.0], precision, [0.0]))  # (n + 2,)
    envelope = np.maximum.accumulate(precision_points[::-1])[::-1]  # the highest precision at this recall or more
    area = _trapezoid(np.interp(_RECALL_GRID, recall_points, envelope), _RECALL_GRID)
    return float(area), envelope, recall_points


def ap_per_class(
    tp: NDArray,
    conf: NDArray,
    pred_cls: NDArray,
    target_cls: NDArray,
    plot: bool = False,
    save_dir: str | Path = ".",
    names: Mapping[int, str] | Sequence[str] = (),
    eps: float = 1e-16,
    draw: Draw = at_once,
) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray, NDArray, NDArray]:
    """Precision, recall and average precision of every class that has labels.

    Args:
        tp: bool (n, T), which predictions are correct at which IoU threshold; the first threshold is .5.
        conf, pred_cls: (n,) confidence and class of the predictions.
        target_cls: (m,) class of every label.
        plot: draw PR_curve.png, F1_curve.png, P_curve.png and R_curve.png in ``save_dir``, by means of ``draw``.
        names: of all classes, for the legends.
        eps: avoids 0 / 0.

    Returns:
        tp, fp, p, r, f1 (C,), ap (C, T), classes (C,), where C classes have labels. The first five hold at the one
        confidence where the smoothed mean F1 of the classes is largest. They are zeros if nothing is predicted or
        correct, and empty without labels.
    """
    order = np.argsort(-conf)
    tp, conf, pred_cls = tp[order], conf[order], pred_cls[order]
    classes, label_counts = np.unique(target_cls, return_counts=True)  # (C,) each
    class_count, grid_size = len(classes), len(_CONFIDENCE_GRID)
    ap = np.zeros((class_count, tp.shape[1]))  # (C, T)
    p_curve = np.zeros((class_count, grid_size))  # precision over the grid of confidence
    r_curve = np.zeros((class_count, grid_size))  # recall over the grid of confidence
    pr_curves = np.zeros((class_count, grid_size))  # precision over a grid of recall, for the plot

    for row, (class_index, label_count) in enumerate(zip(classes, label_counts, strict=True)):
        of_class = pred_cls == class_index  # (n,)
        if not of_class.any():
            continue
        hits = tp[of_class].cumsum(0)  # (k, T), by falling confidence
        recall = hits / (label_count + eps)  # (k, T)
        precision = hits / np.arange(1, len(hits) + 1)[:, None]  # (k, T)
        # np.interp needs rising abscissae, and confidence falls: both are negated
        negative = -conf[of_class]  # (k,)
        r_curve[row] = np.interp(-_CONFIDENCE_GRID, negative, recall[:, 0], left=0)
        p_curve[row] = np.interp(-_CONFIDENCE_GRID, negative, precision[:, 0], left=1)
        for column in range(tp.shape[1]):
            ap[row, column], envelope, recall_points = compute_ap(recall[:, column], precision[:, column])
            if column == 0:
                pr_curves[row] = np.interp(_CONFIDENCE_GRID, recall_points, envelope)

    f1_curve = 2 * p_curve * r_curve / (p_curve + r_curve + eps)
    if plot:
        known = _names_of(classes, names)
        file = Path(save_dir) / "PR_curve.png"
        draw(file, partial(plot_pr_curve, _CONFIDENCE_GRID, pr_curves, ap, file, known))
        _draw_metrics({"F1": f1_curve, "Precision": p_curve, "Recall": r_curve}, known, Path(save_dir), draw)
    best = smooth(f1_curve.mean(0), 0.1).argmax() if class_count else 0
    p, r, f1 = p_curve[:, best], r_curve[:, best], f1_curve[:, best]  # (C,) each
    true_positives = (r * label_counts).round()
    false_positives = (true_positives / (p + eps) - true_positives).round()
    return true_positives, false_positives, p, r, f1, ap, classes.astype(int)


def _draw_metrics(curves: Mapping[str, NDArray], names: Sequence[str], folder: Path, draw: Draw) -> None:
    """Draw metrics (C, K) over confidence, by name: F1_curve.png, P_curve.png and R_curve.png."""
    for label, curve in curves.items():
        file = folder / f"{'F1' if label == 'F1' else label[0]}_curve.png"
        draw(file, partial(plot_mc_curve, _CONFIDENCE_GRID, curve, file, names, ylabel=label))


def _names_of(classes: NDArray, names: Mapping[int, str] | Sequence[str]) -> list[str]:
    """Names of class indices (C,), in their order; an index without a name is written as a number."""
    known = names_by_index(names)
    return [known.get(int(index), str(int(index))) for index in classes]


def fitness(x: NDArray) -> NDArray:
    """Rows (n, 4+) of P, R, mAP at .5, mAP at .5:.95 and maybe more -> figures of merit (n,): .1 and .9 of the mAPs."""
    return np.asarray(x)[:, :4] @ np.asarray(FITNESS_WEIGHTS)


class ConfusionMatrix:
    """Counts of (predicted class, true class); the last row and column stand for the background.

    ``matrix`` is (nc + 1, nc + 1), rows predicted, columns true. A label without a match counts in the background row,
    a detection without a match in the background column. YOLOv5 v6.2 ignores the unmatched detections of an image that
    has no match at all or no labels; here all of them count.
    """

    def __init__(self, nc: int, conf: float = 0.25, iou_thres: float = 0.45):
        self.nc, self.conf, self.iou_thres = nc, conf, iou_thres
        self.matrix: NDArray = np.zeros([nc + 1] * 2)

    def process_batch(self, detections: Rows | None, labels: Rows) -> None:
        """Add one image; both arguments may be tensors or arrays.

        Each detection claims the label that it overlaps most, of whatever class; of several the closest gets it.

        Args:
            detections: (N, 6) x1, y1, x2, y2, confidence, class, or None for none; those up to the confidence limit
                are ignored.
            labels: (M, 5) class, x1, y1, x2, y2 in the same pixels; without detections, classes (M,) are enough.
        """
        rows = np.zeros((0, 6)) if detections is None else as_array(detections)
        kept = rows[rows[:, 4] > self.conf]  # (K, 6)
        predicted = kept[:, 5].astype(int)  # (K,)
        label_rows = as_array(labels)
        true = (label_rows[:, 0] if label_rows.ndim > 1 else label_rows).astype(int)  # (M,)
        partner = np.full(len(true), -1)  # (M,) detection that each label goes to
        if len(kept) and len(true):
            overlap = box_iou(kept[:, :4], label_rows[:, 1:5])  # (K, M)
            favourite = overlap.argmax(1)  # (K,)
            best = overlap.max(1)  # (K,)
            claimants = np.flatnonzero(best > self.iou_thres)
            claimants = claimants[np.argsort(best[claimants], kind="stable")]
            partner[favourite[claimants]] = claimants  # the closest is written last
        matched = partner >= 0  # (M,)
        stray = np.ones(len(predicted), dtype=bool)  # (K,)
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
        """Draw confusion_matrix.png in ``save_dir``; ``normalize`` divides each column by its sum."""
        matrix = self.matrix / (self.matrix.sum(0, keepdims=True) + 1e-9) if normalize else self.matrix
        file = Path(save_dir) / "confusion_matrix.png"
        draw(file, partial(plot_confusion_matrix, matrix, list(names_by_index(names).values()), file))
