"""Whether an INT8 file still finds what the checkpoint finds, where a comparison of numbers says little."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.backends import DetectMultiBackend
from models.export_options import NmsSettings
from models.exporters.verify import detections_of
from utils.errors import InputError
from utils.geometry.boxes import box_iou

IOU = 0.5  # of boxes that count as the same object
LEAST_SHARE = 0.6  # of boxes in common; a sound file has 0.85 and more, one of wrong ranges next to none
FEWEST_BOXES = 10  # on which the share can be judged


@dataclass(frozen=True)
class Agreement:
    """Of the boxes that checkpoint and export find in ``images`` images, how many the other one finds, too."""

    common: int
    boxes: int
    images: int

    @property
    def share(self) -> float:
        """0..1; 1 if neither finds any."""
        return self.common / self.boxes if self.boxes else 1.0

    @property
    def judged(self) -> bool:
        """Tell whether there were boxes enough."""
        return self.boxes >= FEWEST_BOXES

    def __str__(self) -> str:
        if not self.judged:
            return f"not judged: PyTorch and it find {self.boxes} boxes in {self.images} images"
        return f"{self.share:.1%} of its boxes and of PyTorch's in common ({self.images} images)"

    def check(self, what: str) -> None:
        """Raise InputError if the file finds something else than the checkpoint."""
        if self.judged and self.share < LEAST_SHARE:
            raise InputError(
                f"{what} and the checkpoint have {self.share:.0%} of their boxes in common, less than "
                f"{LEAST_SHARE:.0%}: nothing was written; give more --calibration-images like those it will see"
            )


@torch.no_grad()
def agreement(
    backend: DetectMultiBackend, predict: Callable[[Tensor], Tensor], batches: Iterable[Tensor], settings: NmsSettings
) -> Agreement:
    """Run both on batches (B, 3, H, W) in 0..1 and count the boxes of the same class and place.

    Args:
        backend: the export, loaded as val.py and detect.py do. predict: gives the checkpoint's (B, N, 5 + nc).
        settings: thresholds of the boxes that count.
    """
    common = boxes = images = 0
    for batch in batches:
        for found, wanted in zip(backend(batch)[0].cpu().float(), predict(batch).cpu(), strict=True):
            ours, theirs = detections_of(found, settings), detections_of(wanted, settings)
            same = (box_iou(ours[:, :4], theirs[:, :4]) > IOU) & (ours[:, 5:6] == theirs[:, 5])
            common += int(same.any(dim=0).sum() + same.any(dim=1).sum())
            boxes += len(ours) + len(theirs)
            images += 1
    return Agreement(common, boxes, images)
