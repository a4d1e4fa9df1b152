"""A detector: letterboxed images in, detections in native pixels out, and the time that it took."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.backend import Backend
from utils.device import time_sync
from utils.geometry.boxes import scale_coords
from utils.geometry.nms import non_max_suppression

REMEMBERED_CALLS = 100_000  # whose times percentiles are computed from


@dataclass(frozen=True)
class Selection:
    """Arguments of non-maximum suppression, which choose the predictions that become detections.

    Attributes:
        confidence: minimum. iou: overlap above which the weaker of two boxes is dropped.
        max_det: maximum number of detections per image.
        classes: the class indices to keep; None for all.
        agnostic: boxes of different classes suppress each other.
    """

    confidence: float = 0.25
    iou: float = 0.45
    max_det: int = 1000
    classes: Sequence[int] | None = None
    agnostic: bool = False


class Detector:
    """Runs a model and selects its detections.

    Attributes:
        model: the opened weights. names: {class index: name}.
        seconds: sums of pre-processing, inference and NMS.
        calls: seconds of each of the latest calls of ``batch``.
    """

    def __init__(self, model: Backend, selection: Selection | None = None, augment: bool = False) -> None:
        """``augment`` runs the model three times, on other sizes and flipped."""
        self.model, self.selection, self.augment = model, selection or Selection(), augment
        self.names = model.names
        self.seconds = [0.0, 0.0, 0.0]
        self.calls: deque[float] = deque(maxlen=REMEMBERED_CALLS)

    def __call__(self, rgb: np.ndarray, native_size: tuple[int, int]) -> torch.Tensor:
        """Detections (N, 6) of one letterboxed image (3, H, W); see ``batch``."""
        (detections,), _ = self.batch(rgb[None], [native_size])
        return detections

    def batch(
        self, rgb: np.ndarray, native_sizes: Sequence[tuple[int, int]], feature_folder: Path | None = None
    ) -> tuple[list[torch.Tensor], float]:
        """Detect in letterboxed images of one shape.

        Args:
            rgb: (B, 3, H, W) uint8.
            native_sizes: (height, width) in pixels of each image before it was letterboxed.
            feature_folder: existing folder for pictures of the layers' outputs for the first image; None for none.

        Returns:
            For each image (N, 6): x1, y1, x2, y2 in whole native pixels, confidence, class, best first; and the
            seconds of inference.
        """
        model, selection = self.model, self.selection
        start = time_sync()
        images = torch.from_numpy(rgb).to(model.device)
        if model.pt:
            images = images.contiguous(memory_format=torch.channels_last)
        images = (images.half() if model.fp16 else images.float()) / 255
        prepared = time_sync()
        with torch.no_grad():
            predictions = model(images, augment=self.augment, visualize=feature_folder or False)
        inferred = time_sync()
        detections = non_max_suppression(
            predictions,
            selection.confidence,
            selection.iou,
            selection.classes,
            selection.agnostic,
            max_det=selection.max_det,
        )
        for rows, native_size in zip(detections, native_sizes, strict=True):
            rows[:, :4] = scale_coords(images.shape[2:], rows[:, :4], native_size).round()
        finish = time_sync()
        self.seconds[0] += prepared - start
        self.seconds[1] += inferred - prepared
        self.seconds[2] += finish - inferred
        self.calls.append(finish - start)
        return detections, inferred - prepared
