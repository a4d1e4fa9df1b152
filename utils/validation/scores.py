"""What validation makes of detections: matching with labels, metrics per class, label files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.drawing.background import Draw, at_once
from utils.geometry.boxes import scale_coords, xywh2xyxy
from utils.log import LOGGER
from utils.metrics import ap_per_class, match_predictions
from utils.names import terminal_text


@dataclass
class Metrics:
    """Per-class results; ``ap`` is (classes with labels, IoU thresholds)."""

    images: int
    labels: np.ndarray  # labels of each class
    precision: np.ndarray
    recall: np.ndarray
    ap: np.ndarray
    classes: np.ndarray  # class index of each row

    def mean(self) -> tuple[float, float, float, float]:
        """P, R, mAP50 and mAP50-95, unweighted means over the classes that have labels."""
        if not len(self.classes):
            return 0.0, 0.0, 0.0, 0.0
        columns = self.precision, self.recall, self.ap[:, 0], self.ap.mean(1)
        return tuple(float(column.mean()) for column in columns)  # type: ignore[return-value]

    def log(self, names: dict[int, str], per_class: bool) -> None:
        """The table of results: all classes, then, if wanted, one row per class that has labels."""
        row = "%20s" + "%11i" * 2 + "%11.3g" * 4
        LOGGER.info(row, "all", self.images, self.labels.sum(), *self.mean())
        if self.labels.sum() == 0:
            LOGGER.warning("no labels were found in this split: metrics cannot be computed")
        for index, name in enumerate(self.classes if per_class else ()):
            ap = self.ap[index]
            values = self.precision[index], self.recall[index], ap[0], ap.mean()
            LOGGER.info(row, terminal_text(names[int(name)]), self.images, self.labels[name], *values)

    def ap_by_class(self, class_count: int) -> np.ndarray:
        """mAP50-95 of every class (class_count,); classes without labels get the mean."""
        result = np.full(class_count, self.mean()[3])
        result[self.classes] = self.ap.mean(1) if len(self.classes) else result[self.classes]
        return result


@dataclass
class Scores:
    """Predictions matched with labels, image by image, and the metrics made of them."""

    names: dict[int, str]
    iou_thresholds: np.ndarray  # 0.50, 0.55, ..., 0.95
    images: int = 0
    rows: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def add(self, detections: np.ndarray, labels: np.ndarray) -> None:
        """Count one image: detections (N, 6) and labels (M, 5) in native pixels."""
        self.images += 1
        if len(detections) or len(labels):
            correct = match_predictions(detections, labels, self.iou_thresholds)
            self.rows.append((correct, detections[:, 4], detections[:, 5], labels[:, 0]))

    def compute(self, plot: bool, folder: Path, draw: Draw = at_once) -> Metrics:
        """P, R and AP of every class; zeros where nothing was found. With ``plot`` ``draw`` gets the curves."""
        class_count = len(self.names)
        columns = [np.concatenate(column) for column in zip(*self.rows, strict=True)] if self.rows else []
        labels = np.bincount(columns[3].astype(int), minlength=class_count) if columns else np.zeros(class_count, int)
        if not columns or not columns[0].any():
            empty = np.zeros(0)
            return Metrics(
                self.images, labels, empty, empty, np.zeros((0, len(self.iou_thresholds))), empty.astype(int)
            )
        correct, confidence, predicted, target = columns
        _, _, precision, recall, _, ap, classes = ap_per_class(
            correct, confidence, predicted, target, plot=plot, save_dir=folder, names=self.names, draw=draw
        )
        return Metrics(self.images, labels, precision, recall, ap, classes)


def native_boxes(
    detections: np.ndarray, labels: np.ndarray, shapes: tuple, network_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Bring detections (N, 6) and labels (M, 5: class, xywh, network pixels) to corners in native pixels."""
    detections = detections.copy()
    scale_coords(network_size, detections[:, :4], shapes[0], shapes[1])
    boxes = xywh2xyxy(labels[:, 1:5])
    scale_coords(network_size, boxes, shapes[0], shapes[1])
    return detections, np.concatenate((labels[:, :1], boxes), 1)
