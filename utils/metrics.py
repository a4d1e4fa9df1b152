"""Overlap of boxes, matching of predictions to labels, average precision, fitness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from utils.dataset.classes import names_by_index
from utils.drawing.background import Draw, at_once
from utils.drawing.charts import plot_confusion_matrix, plot_mc_curve, plot_pr_curve, smooth
from utils.geometry.boxes import as_array, box_iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rows = torch.Tensor | np.ndarray

__all__ = [
    "ConfusionMatrix",
    "ap_per_class",
    "bbox_iou",
    "box_iou",
    "compute_ap",
    "fitness",
    "match_predictions",
    "smooth",
]

FITNESS_WEIGHTS = (0.0, 0.0, 0.1, 0.9)  # of precision, recall, mAP at IoU .5, mAP at IoU .5:.95
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

    Boxes are centre and size, or corners with ``xywh=False``, in any unit. At most one variant is computed, the most
    complete one asked for: GIoU (https://arxiv.org/abs/1902.09630), DIoU and CIoU (https://arxiv.org/abs/1911.08287).
    CIoU's trade-off factor carries no gradient.
    """
    (low1, high1, size1), (low2, high2, size2) = (_spans(box, xywh) for box in (box1, box2))
    overlap = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0)
    intersection = _area(overlap)
    union = _area(size1) + _area(size2) - intersection + eps
    iou = intersection / union
    if not (GIoU or DIoU or CIoU):
        return iou
    hull = torch.maximum(high1, high2) - torch.minimum(low1, low2)
    if not (DIoU or CIoU):
        hull_area = _area(hull) + eps
        return iou - (hull_area - union) / hull_area
    shift = (low1 + high1 - low2 - high2) / 2
    distance = shift.square().sum(-1, keepdim=True) / (hull.square().sum(-1, keepdim=True) + eps)
    if not CIoU:
        return iou - distance
    slant1, slant2 = (torch.atan(size[..., :1] / (size[..., 1:] + eps)) for size in (size1, size2))
    aspect = (slant2 - slant1).square() * (4 / math.pi**2)
    with torch.no_grad():
        trade_off = aspect / (aspect - iou + (1 + eps))
    return iou - distance - trade_off * aspect


def _spans(box: torch.Tensor, xywh: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lower corner, upper corner and size of boxes (..., 4), each (..., 2)."""
    first, second = box[..., :2], box[..., 2:4]
    return (first - second / 2, first + second / 2, second) if xywh else (first, second, second - first)


def _area(size: torch.Tensor) -> torch.Tensor:
    return size[..., :1] * size[..., 1:]


def match_predictions(detections: Rows, labels: Rows, iou_thresholds: Rows) -> NDArray:
    """Say which detections are correct at which IoU threshold: bool (N, T). Tensors and arrays will do.

    ``detections`` (N, 6) are x1, y1, x2, y2, confidence, class by falling confidence; ``labels`` (M, 5) are class, x1,
    y1, x2, y2 in the same pixels. Each detection claims the label of its class that it overlaps most; where several
    claim one label, the first of them gets it and the others get nothing, not even their second choice.
    """
    detections, labels, iou_thresholds = as_array(detections), as_array(labels), as_array(iou_thresholds)
    correct = np.zeros((len(detections), len(iou_thresholds)), dtype=bool)
    if not len(detections) or not len(labels):
        return correct
    overlap = box_iou(detections[:, :4], labels[:, 1:5])  # (N, M)
    overlap[detections[:, 5:6] != labels[:, 0]] = -1
    favourite = overlap.argmax(1)
    claimant, threshold = np.nonzero(overlap.max(1)[:, None] >= iou_thresholds)
    winner = np.full((len(labels), len(iou_thresholds)), -1)
    winner[favourite[claimant[::-1]], threshold[::-1]] = claimant[::-1]  # the first is written last
    label, threshold = np.nonzero(winner >= 0)
    correct[winner[label, threshold], threshold] = True
    return correct


def compute_ap(
    recall: Sequence[float] | NDArray, precision: Sequence[float] | NDArray
) -> tuple[float, NDArray, NDArray]:
    """Area under a precision-recall curve by COCO's 101 points.

    Both inputs run from the highest confidence to the lowest. Returns the area, the envelope's precision and recall.
    """
    recall_points = np.concatenate(([0.0], recall, [1.0]))
    precision_points = np.concatenate(([1.0], precision, [0.0]))
    envelope = np.maximum.accumulate(precision_points[::-1])[::-1]
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

    ``tp`` (n, T) says which predictions are correct at which IoU threshold, the first being .5; ``conf`` and
    ``pred_cls`` (n,) are their confidence and class; ``target_cls`` (m,) the class of every label. Returns
    (tp, fp, p, r, f1, ap, classes): (C,) each, ``ap`` (C, T). The first five hold at the one confidence where the
    classes' mean F1, smoothed, is largest. Nothing predicted or nothing right gives zeros, no labels empty arrays.
    With ``plot`` ``draw`` gets the four curves, in ``save_dir`` (PR_curve.png, F1_curve.png, P_curve.png, R_curve.png).
    """
    order = np.argsort(-conf)
    tp, conf, pred_cls = tp[order], conf[order], pred_cls[order]
    classes, label_counts = np.unique(target_cls, return_counts=True)
    class_count, grid_size = len(classes), len(_CONFIDENCE_GRID)
    ap = np.zeros((class_count, tp.shape[1]))
    p_curve, r_curve = np.zeros((class_count, grid_size)), np.zeros((class_count, grid_size))
    pr_curves = np.zeros((class_count, grid_size))  # precision over a grid of recall, for the plot

    for row, (wanted, label_count) in enumerate(zip(classes, label_counts, strict=True)):
        chosen = pred_cls == wanted
        if not chosen.any():
            continue
        hits = tp[chosen].cumsum(0)
        recall = hits / (label_count + eps)
        precision = hits / np.arange(1, len(hits) + 1)[:, None]
        # np.interp wants rising abscissae, and confidence falls: both are negated.
        negative = -conf[chosen]
        r_curve[row] = np.interp(-_CONFIDENCE_GRID, negative, recall[:, 0], left=0)
        p_curve[row] = np.interp(-_CONFIDENCE_GRID, negative, precision[:, 0], left=1)
        for column in range(tp.shape[1]):
            ap[row, column], envelope, recall_points = compute_ap(recall[:, column], precision[:, column])
            if column == 0:
                pr_curves[row] = np.interp(_CONFIDENCE_GRID, recall_points, envelope)

    f1_curve = 2 * p_curve * r_curve / (p_curve + r_curve + eps)
    if plot:
        folder, known = Path(save_dir), _names_of(classes, names)
        file = folder / "PR_curve.png"
        draw(file, partial(plot_pr_curve, _CONFIDENCE_GRID, pr_curves, ap, file, known))
        for letter, label, curves in (("F1", "F1", f1_curve), ("P", "Precision", p_curve), ("R", "Recall", r_curve)):
            file = folder / f"{letter}_curve.png"
            draw(file, partial(plot_mc_curve, _CONFIDENCE_GRID, curves, file, known, ylabel=label))
    best = smooth(f1_curve.mean(0), 0.1).argmax() if class_count else 0
    p, r, f1 = p_curve[:, best], r_curve[:, best], f1_curve[:, best]
    true_positives = (r * label_counts).round()
    false_positives = (true_positives / (p + eps) - true_positives).round()
    return true_positives, false_positives, p, r, f1, ap, classes.astype(int)


def _names_of(classes: NDArray, names: Mapping[int, str] | Sequence[str]) -> list[str]:
    """Names of the class indices, in their order; an index without a name stands for itself."""
    known = names_by_index(names)
    return [known.get(int(index), str(int(index))) for index in classes]


def fitness(x: NDArray) -> NDArray:
    """Rows of P, R, mAP at .5, mAP at .5:.95 and maybe more -> one figure of merit each: .1 and .9 of the two mAPs."""
    return np.asarray(x)[:, :4] @ np.asarray(FITNESS_WEIGHTS)


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
        file = Path(save_dir) / "confusion_matrix.png"
        draw(file, partial(plot_confusion_matrix, matrix, list(names_by_index(names).values()), file))
