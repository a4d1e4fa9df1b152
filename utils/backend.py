"""The interface that validation and detection require of an opened detector, whatever the format of its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from utils.training_record import TrainingRecord


class Backend(Protocol):
    """An opened checkpoint, ensemble or export; ``models.backends.DetectMultiBackend`` is one.

    Attributes:
        device: where it computes.
        names: {class index: name}.
        stride: pixels, at least 32; image sides must be multiples of it.
        fixed_size: (height, width) in pixels that images must have, or None for any multiple of the stride.
        pt: the file is a checkpoint. fp16: it takes FP16 images. record: what the file says of its training.
    """

    device: torch.device
    names: dict[int, str]
    stride: int
    fixed_size: tuple[int, int] | None
    pt: bool
    fp16: bool
    record: TrainingRecord

    def __call__(self, images: torch.Tensor, augment: bool = False, visualize: bool | Path = False) -> Any:
        """Map images (B, 3, H, W), RGB in 0..1, to predictions (B, boxes, 5 + classes)."""

    def image_size(self, requested: int | Sequence[int] | None) -> list[int]:
        """Return the (height, width) in pixels to letterbox to; raise InputError if ``requested`` is not possible."""

    def warmup(self, imgsz: Sequence[int] = ...) -> None:
        """Run once on blank images of shape (B, 3, H, W)."""
