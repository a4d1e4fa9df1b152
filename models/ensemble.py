"""Several detectors that are used as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Ensemble(nn.ModuleList):
    """Several detectors; their boxes are concatenated, for NMS to merge."""

    def forward(
        self, x: torch.Tensor, augment: bool = False, profile: bool = False, visualize: Any = False
    ) -> tuple[torch.Tensor, None]:
        """(B, ch, H, W) in 0..1 -> ((B, sum of N, no) boxes in pixels, None)."""
        return torch.cat([model(x, augment, profile, visualize)[0] for model in self], dim=1), None


Ensemble.__module__ = f"{__package__}.experimental"  # its path in YOLOv5
