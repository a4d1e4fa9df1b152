"""The path under which checkpoints and other programs know some rarer blocks, ensembles and ``attempt_load``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from models import loading
from models.ensemble import Ensemble
from models.rare_blocks import MixConv2d, Sum
from utils.downloads import attempt_download

__all__ = ["Ensemble", "MixConv2d", "Sum", "attempt_download", "attempt_load"]


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
    channels: int | None = 3,
    map_location: torch.device | str | None = None,
) -> Any:
    """``models.loading.attempt_load``; ``map_location`` is the name of ``device`` up to v6.1."""
    return loading.attempt_load(weights, map_location if device is None else device, inplace, fuse, channels)
