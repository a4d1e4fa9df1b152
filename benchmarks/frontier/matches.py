"""Detections matched with labels, image by image: what mAP is computed from, also for resampled images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from models.backends import DetectMultiBackend
from utils.callbacks import Callbacks
from utils.commands.options import build
from utils.log import warnings_only
from utils.metrics import match_predictions
from utils.validation.inputs import Given, open_inputs
from utils.validation.loop import Evaluation
from utils.validation.options import ValOptions
from utils.validation.scores import Scores

THRESHOLDS = 10  # IoU .50, .55, ..., .95; bit t of ``hits`` belongs to threshold t


@dataclass
class Matches:
    """The detections and labels of a split, in the order of the images' names.

    Attributes:
        images: (I,) names.
        image: (n,) int32, index of the image of each detection.
        confidence: (n,) float32.
        predicted: (n,) int16, class of each detection.
        hits: (n,) uint16, bit t is set where the detection is correct at IoU threshold t.
        label_image: (m,) int32, index of the image of each label.
        label_class: (m,) int16.
    """

    images: np.ndarray
    image: np.ndarray
    confidence: np.ndarray
    predicted: np.ndarray
    hits: np.ndarray
    label_image: np.ndarray
    label_class: np.ndarray

    def to_text(self) -> str:
        """The arrays as one line of text."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        return base64.b64encode(buffer.getvalue()).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> Matches:
        """The arrays that ``to_text`` has written."""
        with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as stored:
            return cls(**{field.name: stored[field.name] for field in fields(cls)})

    def joined(self, other: Matches) -> Matches:
        """The images of both."""
        values = {}
        for field in fields(self):
            own, more = getattr(self, field.name), getattr(other, field.name)
            offset = len(self.images) if field.name in ("image", "label_image") else None
            values[field.name] = np.concatenate((own, more if offset is None else more + offset))
        return Matches(**values)


class _ByImage(Scores):
    """Scores that keep a row for every image, also for those without detections and labels."""

    def add(self, detections: np.ndarray, labels: np.ndarray) -> None:
        """Count one image: detections (N, 6) and labels (M, 5) in native pixels."""
        self.images += 1
        correct = match_predictions(detections, labels, self.iou_thresholds)  # (N, T)
        self.rows.append((correct, detections[:, 4], detections[:, 5], labels[:, 0]))


def match(data: str, weights: str | Path, split: str, image_size: int, **keywords: Any) -> Matches:
    """Run ``weights`` on a split as val.py does, and keep what its metrics are computed from.

    Args:
        data: data set YAML.
        weights: checkpoint.
        split: 'val' or 'test'.
        image_size: pixels, longer side.
        keywords: other fields of ValOptions, such as ``batch_size``, ``device`` and ``workers``.
    """
    options = build(ValOptions, data=data, weights=[str(weights)], task=split, imgsz=image_size, **keywords)
    given = Given(None, None, "", plots=False, callbacks=Callbacks(), compute_loss=None)
    names: list[str] = []
    with warnings_only(), torch.no_grad(), TemporaryDirectory() as folder:
        inputs = open_inputs(options, data, given, DetectMultiBackend)
        inputs.model.eval()
        evaluation = Evaluation(inputs, Path(folder), None)
        scores = _ByImage(evaluation.scores.names, evaluation.scores.iou_thresholds)
        evaluation.scores = scores
        for number, batch in enumerate(inputs.loader):
            evaluation.batch(number, batch)
            names += [Path(path).name for path in batch[2]]
    order = np.argsort(names, kind="stable")
    return _collected([names[index] for index in order], [scores.rows[index] for index in order])


def _collected(names: Sequence[str], rows: Sequence[tuple[np.ndarray, ...]]) -> Matches:
    """The arrays of all images from the rows of each."""
    correct, confidence, predicted, target = (list(column) for column in zip(*rows, strict=True))
    bits = 1 << np.arange(THRESHOLDS, dtype=np.uint16)  # (T,)
    index = np.arange(len(names), dtype=np.int32)
    return Matches(
        np.array(names),
        np.repeat(index, [len(each) for each in confidence]),
        np.concatenate(confidence).astype(np.float32),
        np.concatenate(predicted).astype(np.int16),
        (np.concatenate(correct).astype(np.uint16) * bits).sum(1).astype(np.uint16),  # (n, T) -> (n,)
        np.repeat(index, [len(each) for each in target]),
        np.concatenate(target).astype(np.int16),
    )
