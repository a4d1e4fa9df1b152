"""The models that hubconf.py offers to torch.hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.autoshape import AutoShape
from models.backends import DetectMultiBackend
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from utils.checkpoint import copy_matching
from utils.checks import check_yaml
from utils.device import select_device
from utils.errors import InputError
from utils.log import LOGGER, setup_logging

REMEDY = "if the repository came from torch.hub's cache, try again with force_reload=True"


def create(
    name: str | Path,
    pretrained: bool = True,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: Any = None,
) -> Any:
    """Build a model as the entry points of hubconf.py describe it; ``name`` may also be a checkpoint file."""
    setup_logging(rank=-1 if verbose else 1)
    try:
        if pretrained and channels == 3 and classes == 80:
            return open_model(name, autoshape, verbose, device)
        return _trainable_model(str(name), pretrained, channels, classes).to(select_device(device))
    except InputError as error:
        raise type(error)(f"cannot load {name}: {error} ({REMEDY})") from error


def open_model(
    name: str | Path, autoshape: bool = True, verbose: bool = True, device: Any = None
) -> AutoShape | DetectMultiBackend:
    """Open a checkpoint or an export, for pictures of any kind with ``autoshape``, else for tensors."""
    file = name if Path(name).suffix or Path(name).exists() else f"{name}.pt"  # some exports are folders
    channels = 3 if autoshape else None  # without it the caller makes the tensors
    model = DetectMultiBackend(file, device=select_device(device), fuse=autoshape, channels=channels)
    return AutoShape(model, verbose) if autoshape else model


def _trainable_model(name: str, pretrained: bool, channels: int, classes: int) -> DetectionModel:
    """Build a DetectionModel from the architecture ``name``, with the released weights that fit if ``pretrained``."""
    stem = Path(name).stem
    model = DetectionModel(check_yaml(f"{stem}.yaml"), ch=channels, nc=classes)
    if pretrained:
        source = load_checkpoint(f"{stem}.pt")["model"].float()
        copied, total = copy_matching(source.state_dict(), model, exclude=["anchors"])
        LOGGER.info(f"Transferred {copied}/{total} items from {stem}.pt")
        if len(source.names) == classes:
            model.names = source.names
    return model
