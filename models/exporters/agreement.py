"""Compare the detections of an INT8 file with the checkpoint's, where a comparison of numbers says little."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.backends import DetectMultiBackend
from models.exporters.options import NmsSettings
from models.exporters.verify import detections_of
from utils.errors import InputError
from utils.geometry.boxes import box_iou

IOU = 0.5  # of boxes that count as the same object
LEAST_SHARE = 0.6  # of boxes in common; a good file has 0.85 and more, one with wrong ranges almost none
FEWEST_BOXES = 10  # below this the share is not judged


@dataclass(frozen=True)
class Agreement:
    """The boxes that checkpoint and export find in ``images`` images, and how many of them the other one finds, too."""

    common: int
    boxes: int
    images: int

    @property
    def share(self) -> float:
        """Share of common boxes, 0..1; 1 if there are no boxes."""
        return self.common / self.boxes if self.boxes else 1.0

    @property
    def judged(self) -> bool:
        """Tell whether there were enough boxes."""
        return self.boxes >= FEWEST_BOXES

    def __str__(self) -> str:
        if not self.judged:
            return f"not judged: PyTorch and it find {self.boxes} boxes in {self.images} images"
        return f"{self.share:.1%} of its boxes and of PyTorch's in common ({self.images} images)"

    def check(self, what: str) -> None:
        """Raise InputError if the file finds other boxes than the checkpoint."""
        if self.judged and self.share < LEAST_SHARE:
            raise InputError(
                f"{what} and the checkpoint have {self.share:.0%} of their boxes in common, less than "
                f"{LEAST_SHARE:.0%}: nothing was written; give more --calibration-images like those it will see"
            )


@torch.no_grad()
def agreement(
    backend: DetectMultiBackend, predict: Callable[[Tensor], Tensor], batches: Iterable[Tensor], settings: NmsSettings
) -> Agreement:
    """Run both on batches (B, 3, H, W) in 0..1 and count the boxes that match in class and position.

    Args:
        backend: the export, loaded as by val.py and detect.py. predict: returns the checkpoint's (B, N, 5 + nc).
        settings: thresholds of the boxes that count.
    """
    common = 0
    boxes = 0
    images = 0
    for batch in batches:
        exported = backend(batch)[0].cpu().float()  # (B, N, 5 + nc)
        original = predict(batch).cpu()  # (B, N, 5 + nc)
        for exported_rows, original_rows in zip(exported, original, strict=True):
            ours = detections_of(exported_rows, settings)  # (n, 6)
            theirs = detections_of(original_rows, settings)  # (m, 6)
            overlapping = box_iou(ours[:, :4], theirs[:, :4]) > IOU  # (n, m)
            same = overlapping & (ours[:, 5:6] == theirs[:, 5])  # (n, m)
            common += int(same.any(dim=0).sum() + same.any(dim=1).sum())
            boxes += len(ours) + len(theirs)
            images += 1
    return Agreement(common, boxes, images)
