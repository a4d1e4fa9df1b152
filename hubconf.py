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


def _create(*arguments: Any, **keywords: Any) -> Any:
    """``models.hub_models.create``; imported here, so that torch.hub can name missing ``dependencies`` first."""
    from models.hub_models import create

    return create(*arguments, **keywords)


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


yolov5n = _released("yolov5n")
yolov5s = _released("yolov5s")
yolov5m = _released("yolov5m")
yolov5l = _released("yolov5l")
yolov5x = _released("yolov5x")
yolov5n6 = _released("yolov5n6")
yolov5s6 = _released("yolov5s6")
yolov5m6 = _released("yolov5m6")
yolov5l6 = _released("yolov5l6")
yolov5x6 = _released("yolov5x6")
