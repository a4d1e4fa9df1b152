"""Scores of a validation: detections matched with labels, and metrics per class."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.drawing.background import Draw, at_once
from utils.geometry.boxes import scale_coords, xywh2xyxy
from utils.log import LOGGER, terminal_text
from utils.metrics import ap_per_class, match_predictions


@dataclass
class Metrics:
    """Results of each of the C classes that have labels, at T IoU thresholds."""

    images: int
    labels: np.ndarray  # (nc,) number of labels of every class
    precision: np.ndarray  # (C,)
    recall: np.ndarray  # (C,)
    ap: np.ndarray  # (C, T)
    classes: np.ndarray  # (C,) class indices

    def mean(self) -> tuple[float, float, float, float]:
        """Return P, R, mAP50 and mAP50-95: unweighted means over the classes that have labels."""
        if not len(self.classes):
            return 0.0, 0.0, 0.0, 0.0
        map50, map50_95 = self.ap[:, 0].mean(), self.ap.mean(1).mean()
        return float(self.precision.mean()), float(self.recall.mean()), float(map50), float(map50_95)

    def log(self, names: dict[int, str], per_class: bool) -> None:
        """Log the table of results: a row for all classes and, with ``per_class``, one for each that has labels."""
        row_format = "%20s" + "%11i" * 2 + "%11.3g" * 4
        LOGGER.info(row_format, "all", self.images, self.labels.sum(), *self.mean())
        if self.labels.sum() == 0:
            LOGGER.warning("no labels were found in this split: metrics cannot be computed")
        if not per_class:
            return
        for row, class_index in enumerate(self.classes):
            ap = self.ap[row]
            values = self.precision[row], self.recall[row], ap[0], ap.mean()
            name = terminal_text(names[int(class_index)])
            LOGGER.info(row_format, name, self.images, self.labels[class_index], *values)

    def ap_by_class(self, class_count: int) -> np.ndarray:
        """Return mAP50-95 of every class (class_count,); classes without labels get the mean."""
        result = np.full(class_count, self.mean()[3])
        result[self.classes] = self.ap.mean(1) if len(self.classes) else result[self.classes]
        return result


@dataclass
class Scores:
    """Predictions matched with labels, image by image, and the metrics computed from them."""

    names: dict[int, str]
    iou_thresholds: np.ndarray  # (T,) 0.50, 0.55, ..., 0.95
    images: int = 0
    rows: list[tuple[np.ndarray, ...]] = field(default_factory=list)  # correct, confidence, class; class of labels

    def add(self, detections: np.ndarray, labels: np.ndarray) -> None:
        """Count one image: detections (N, 6) and labels (M, 5) in native pixels."""
        self.images += 1
        if len(detections) or len(labels):
            correct = match_predictions(detections, labels, self.iou_thresholds)
            self.rows.append((correct, detections[:, 4], detections[:, 5], labels[:, 0]))

    def compute(self, plot: bool, folder: Path, draw: Draw = at_once) -> Metrics:
        """Compute P, R and AP of every class; with ``plot``, ``draw`` gets the curves, which go into ``folder``."""
        labels = np.zeros(len(self.names), int)
        correct = np.zeros((0, len(self.iou_thresholds)), bool)
        if self.rows:
            correct, confidence, predicted, target = map(np.concatenate, zip(*self.rows, strict=True))
            labels = np.bincount(target.astype(int), minlength=len(self.names))
        if not correct.any():
            empty = np.zeros(0)
            no_ap = np.zeros((0, len(self.iou_thresholds)))
            return Metrics(self.images, labels, empty, empty, no_ap, empty.astype(int))
        _, _, precision, recall, _, ap, classes = ap_per_class(
            correct, confidence, predicted, target, plot=plot, save_dir=folder, names=self.names, draw=draw
        )
        return Metrics(self.images, labels, precision, recall, ap, classes)


def native_boxes(
    detections: np.ndarray, labels: np.ndarray, shapes: tuple, network_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Map boxes from the network's input to the original image.

    Args:
        detections: (N, 6) x1, y1, x2, y2 in pixels of the network's input, confidence, class.
        labels: (M, 5) class, centre x, centre y, width, height in the same pixels.
        shapes: of the image, see ``utils.dataset.items.LoadImagesAndLabels``.
        network_size: (height, width) of the network's input.

    Returns:
        Copies (N, 6) and (M, 5: class, x1, y1, x2, y2) in pixels of the original image.
    """
    detections = detections.copy()
    scale_coords(network_size, detections[:, :4], shapes[0], shapes[1])
    boxes = xywh2xyxy(labels[:, 1:5])
    scale_coords(network_size, boxes, shapes[0], shapes[1])
    return detections, np.concatenate((labels[:, :1], boxes), 1)
