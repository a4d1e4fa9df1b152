"""Reading checkpoints of YOLOv5 v5.0 to v7.0 and of this project, and bringing old models up to date.

Only classes of the list below are ever unpickled; nothing in a file can run other code.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import nn

from models import common, experimental, yolo
from utils.checkpoint import CheckpointError, plain, plain_checkpoint, read_restricted, use_reader
from utils.weights import fetch_weights

# Where earlier releases kept classes: {path in the file: class}
MOVED = {
    "models.yolo.Model": yolo.DetectionModel,  # to v6.1
    "models.experimental.GhostConv": common.GhostConv,  # to v5.0
    "models.experimental.GhostBottleneck": common.GhostBottleneck,
    "models.experimental.C3": common.C3,  # v2.0 and v3.0
    "models.experimental.CrossConv": common.CrossConv,  # to v6.1
}
OTHER_TASKS = ("ClassificationModel", "SegmentationModel")
INPLACE_ACTIVATIONS = (nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.SiLU)


def _posix_path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _windows_path(*parts: str) -> str:
    return str(PureWindowsPath(*parts))


def _numpy_globals() -> list[tuple[Callable, str]]:
    """What pickled NumPy numbers and arrays (best_fitness of v6.2) name, under the module paths of NumPy 1 and 2."""
    functions: dict[str, Any] = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
    found: list[tuple[Callable, str]] = []
    for core in ("core", "_core"):
        found += [(function, f"numpy.{core}.multiarray.{name}") for name, function in functions.items()]
    # An array's element type is an instance of a class of its own, whose state is set, too
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdUS"}
    found += [(kind, f"{kind.__module__}.{kind.__qualname__}") for kind in kinds]
    return [*found, (np.ndarray, "numpy.ndarray"), (np.dtype, "numpy.dtype")]


@functools.cache
def allowed_globals() -> tuple[tuple[Callable, str], ...]:
    """Every class and function that a checkpoint may name, with its path there.

    These are the blocks of ``models``, torch's layers, NumPy's numbers, and what options contain; paths become text.
    """
    found: list[tuple[Callable, str]] = [(kind, path) for path, kind in MOVED.items()]
    for module in (common, yolo, experimental):
        found += [
            (kind, f"{module.__name__}.{kind.__name__}")
            for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__ == module.__name__
        ]
    for kind in vars(nn).values():
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__.startswith("torch.nn.modules."):
            found.append((kind, f"{kind.__module__}.{kind.__name__}"))
    attention_output = nn.modules.linear.NonDynamicallyQuantizableLinear  # the second name is that of torch < 1.9
    for name in ("NonDynamicallyQuantizableLinear", "_LinearWithBias"):
        found.append((attention_output, f"torch.nn.modules.linear.{name}"))
    found += _numpy_globals()
    for home in ("pathlib", "pathlib._local"):  # the second from Python 3.13 on
        found += [(_posix_path, f"{home}.{name}") for name in ("Path", "PosixPath", "PurePath", "PurePosixPath")]
        found += [(_windows_path, f"{home}.{name}") for name in ("WindowsPath", "PureWindowsPath")]
    return (*found, (argparse.Namespace, "argparse.Namespace"), (set, "builtins.set"), (range, "builtins.range"))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a detection checkpoint to the CPU.

    Args:
        path: a training or stripped file of YOLOv5 v5.0 to v7.0 or of this project. An http(s) address, and the name
            of released weights such as yolov5s.pt that are missing there, is fetched (``utils.weights``).

    Returns:
        The file's dict: 'model' and possibly 'ema' are DetectionModels brought up to date, in the file's precision; all
        else is plain (paths are text, best_fitness is a float or None).

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is damaged, of another kind, or names a class that is not allowed.
    """
    path = fetch_weights(path)
    try:
        content = read_restricted(path, allowed_globals())
    except CheckpointError as error:
        task = next((name for name in OTHER_TASKS if f"models.yolo.{name}" in str(error)), None)
        if task is None:
            raise
        raise CheckpointError(f"{path} is of another task, a {task}: expected a detection checkpoint") from error
    _check_kind(path, content)
    try:
        checkpoint = plain_checkpoint(content)
        for key in ("model", "ema"):
            if checkpoint.get(key) is not None:
                modernize(checkpoint[key])
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise CheckpointError(f"the model in {path} is incomplete or of an unknown kind ({error})") from error
    if checkpoint.get("model") is None:
        checkpoint["model"] = checkpoint["ema"]
    return checkpoint


use_reader(load_checkpoint)


def _check_kind(path: str | Path, content: Any) -> None:
    """Raise CheckpointError unless ``content`` is a dict with a detection model."""
    start = f"{path} is no YOLOv5 detection checkpoint: expected a dict whose 'model' is a DetectionModel, got "
    if isinstance(content, nn.Module):
        kind = type(content).__name__
        raise CheckpointError(start + f"a bare {kind}: save it as torch.save({{'model': model}}, path)")
    if not isinstance(content, dict):
        raise CheckpointError(start + f"an object of type {type(content).__name__}: choose another file")
    candidates = content, content.get("model"), content.get("state_dict")
    weights = next((value for value in candidates if _is_state(value)), None)
    if weights is not None:
        raise CheckpointError(
            start + f"weights alone ({len(weights)} tensors): build the network with models.yolo.DetectionModel from "
            "its YAML, load them with load_state_dict, and save it as {'model': model}"
        )
    models = [content[key] for key in ("model", "ema") if content.get(key) is not None]
    if not models:
        keys = ", ".join(str(key) for key in list(content)[:6]) or "no keys"
        raise CheckpointError(start + f"a dict without it (keys: {keys}): choose another file")
    for model in models:
        if not isinstance(model, yolo.DetectionModel):
            raise CheckpointError(start + f"an object of type {type(model).__name__} in its place: choose another file")


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(entry, torch.Tensor) for entry in value.values())


# -- differences between releases --------------------------------------------------------------------------------------


def modernize(model: yolo.DetectionModel) -> None:
    """Give a model of an older release or an older torch, in place, the attributes that the present code reads."""
    for module in model.modules():
        if isinstance(module, yolo.Detect):
            _modernize_head(module)
        elif isinstance(module, nn.Upsample):
            vars(module).setdefault("recompute_scale_factor", None)  # saved with torch < 1.11
        elif isinstance(module, nn.MultiheadAttention):
            vars(module).setdefault("batch_first", False)  # saved with torch < 1.9
        elif type(module) in INPLACE_ACTIVATIONS:
            vars(module).setdefault("inplace", True)
    attributes = vars(model)
    if "yaml" not in attributes and "md" in attributes:  # v1.0
        attributes["yaml"] = attributes["md"]
    attributes.setdefault("inplace", True)  # to v5.0
    head = model.model[-1]
    if attributes.get("stride") is None:
        detected = getattr(head, "stride", None)
        model.stride = torch.tensor([32.0]) if detected is None else detected.float()
    if attributes.get("names") is None:
        model.names = [str(index) for index in range(getattr(head, "nc", 0))]
    for name, value in list(attributes.items()):
        if not name.startswith("_"):
            attributes[name] = plain(value)


def _modernize_head(head: yolo.Detect) -> None:
    head._buffers.pop("anchor_grid", None)  # a buffer to v5.0, hence also an entry of the state dict
    # To v6.1 the cached grids lack the offset of half a cell: with them the boxes of the first image are shifted
    head.grid = [torch.zeros(1) for _ in range(head.nl)]
    head.anchor_grid = [torch.zeros(1) for _ in range(head.nl)]
    vars(head).setdefault("inplace", True)  # to v5.0
