"""Requirements of the commands on an opened network: images of three channels, and unfused batch norms to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from models.common import Conv, Focus
from utils.errors import InputError

PICTURE_CHANNELS = 3  # of all images from files and cameras


def input_channels(model: Any) -> int:
    """Channels of the images that a DetectionModel takes: those of its first convolution, else those of its YAML."""
    first = model.model[0]
    for module in first.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels // (4 if isinstance(first, Focus) else 1)
    return int(model.yaml.get("ch", PICTURE_CHANNELS))


def check_channels(model: Any, file: str | Path, channels: int = PICTURE_CHANNELS) -> None:
    """Raise InputError unless ``model``, opened from ``file``, takes images with this many channels."""
    own = input_channels(model)
    if own != channels:
        raise InputError(
            f"{file} takes images with {own} channel{'s' * (own != 1)} (ch: {own}), but this program reads pictures "
            f"with {channels}: use a model with ch: {channels}, which is the default"
        )


def check_unfused(model: nn.Module, file: str | Path) -> None:
    """Raise InputError if convolution blocks of ``model``, opened from ``file``, have lost their batch norms."""
    fused = [path for path, module in model.named_modules() if isinstance(module, Conv) and not hasattr(module, "bn")]
    if fused:
        raise InputError(
            f"{file} is fused: {len(fused)} of its batch norms are folded into their convolutions (the first at "
            f"{fused[0]}), and training and pruning need them; use the checkpoint that was fused, such as best.pt or "
            "last.pt of its training"
        )
