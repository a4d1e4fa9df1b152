"""Entry points of torch.hub.

model = torch.hub.load('.', 'custom', path='best.pt', source='local')    # in the checkout; any of its checkpoints
model = torch.hub.load('.', 'yolov5s', source='local')                   # released weights, fetched when missing
results = model(['street.jpg', 'https://host/cat.jpg'], size=640)        # also PIL images and arrays
results.print(), results.pandas().xyxy[0], results.save()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

dependencies = ["torch", "numpy", "cv2", "yaml", "tqdm"]

REMEDY = "if the repository came from torch.hub's cache, try again with force_reload=True"


def custom(
    path: str | Path = "path/to/model.pt", autoshape: bool = True, _verbose: bool = True, device: Any = None
) -> Any:
    """Load a checkpoint of one's own, pruned or not, or an export of it.

    Args:
        path: the file or folder, or a file's http(s) address.
        autoshape: take pictures of any kind and return Detections; otherwise tensors in, raw predictions out.
        _verbose: log what is done.
        device: 'cpu', 0, 'cuda:0', 'mps'; default: a GPU if there is one.

    Raises:
        InputError: the file or the device cannot be used.
    """
    return _create(path, autoshape=autoshape, verbose=_verbose, device=device)


def _create(
    name: str | Path,
    pretrained: bool = True,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    verbose: bool = True,
    device: Any = None,
) -> Any:
    """Build the model that the entry points below describe; ``name`` may also be a checkpoint file."""
    from utils.device import select_device
    from utils.errors import InputError
    from utils.log import setup_logging

    setup_logging(rank=-1 if verbose else 1)
    try:
        chosen = select_device(device)
        if pretrained and channels == 3 and classes == 80:
            return _ready_model(name, autoshape, verbose, chosen)
        return _trainable_model(str(name), pretrained, channels, classes).to(chosen)
    except InputError as error:
        raise type(error)(f"cannot load {name}: {error} ({REMEDY})") from error


def _ready_model(name: str | Path, autoshape: bool, verbose: bool, device: Any) -> Any:
    from models.autoshape import AutoShape
    from models.backends import DetectMultiBackend

    file = name if Path(name).suffix or Path(name).exists() else f"{name}.pt"  # some exports are folders
    channels = 3 if autoshape else None  # without it the caller makes the tensors
    model = DetectMultiBackend(file, device=device, fuse=autoshape, channels=channels)
    return AutoShape(model, verbose) if autoshape else model


def _trainable_model(name: str, pretrained: bool, channels: int, classes: int) -> Any:
    """A DetectionModel from the architecture ``name``, with the released weights that fit if ``pretrained``."""
    from models.loading import load_checkpoint
    from models.yolo import DetectionModel
    from utils.checkpoint import copy_matching
    from utils.checks import check_yaml
    from utils.log import LOGGER

    stem = Path(name).stem
    model = DetectionModel(check_yaml(f"{stem}.yaml"), ch=channels, nc=classes)
    if pretrained:
        source = load_checkpoint(f"{stem}.pt")["model"].float()
        copied, total = copy_matching(source.state_dict(), model, exclude=["anchors"])
        LOGGER.info(f"Transferred {copied}/{total} items from {stem}.pt")
        if len(source.names) == classes:
            model.names = source.names
    return model


def _released(name: str) -> Any:
    def load(
        pretrained: bool = True,
        channels: int = 3,
        classes: int = 80,
        autoshape: bool = True,
        _verbose: bool = True,
        device: Any = None,
    ) -> Any:
        return _create(name, pretrained, channels, classes, autoshape, _verbose, device)

    load.__name__ = name
    load.__doc__ = f"""Load {name}.

    Args:
        pretrained: with the released weights (under their own licence; fetched when {name}.pt is missing here).
        channels, classes: other than 3 and 80, or without weights: a DetectionModel, with the weights that fit.
        autoshape, _verbose, device: as in ``custom``.
    """
    return load


yolov5n, yolov5s, yolov5m, yolov5l, yolov5x = (_released(f"yolov5{size}") for size in "nsmlx")
yolov5n6, yolov5s6, yolov5m6, yolov5l6, yolov5x6 = (_released(f"yolov5{size}6") for size in "nsmlx")
