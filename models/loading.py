"""Reading checkpoints of YOLOv5 v5.0 to v7.0 and of this project, and bringing old models up to date.

A file is data: ``utils.torch_files`` reads all of it into records, which ``models.checkpoints.rebuilding`` checks and
turns into modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import yolo
from models.checkpoints.rebuilding import module_classes, rebuild
from models.checkpoints.safetensors_models import SUFFIX, read_model
from models.checkpoints.soundness import check_channels, check_detector, check_finite, check_runs
from models.ensemble import Ensemble
from utils.checkpoint import CLEARED_KEYS, MODULE_KEYS, RESUME_KEY, plain, plain_checkpoint, save_checkpoint
from utils.downloads import fetch_weights
from utils.errors import CheckpointError, InputError, MissingFileError
from utils.log import LOGGER
from utils.torch_files.messages import message
from utils.torch_files.reader import read_torch_file
from utils.torch_files.records import Refusal
from utils.training_record import Options, TrainingRecord, training_record, with_record


def load_checkpoint(path: str | Path, finite: bool = True) -> dict[str, Any]:
    """Read a detection checkpoint to the CPU.

    Args:
        path: a training or stripped file of YOLOv5 v5.0 to v7.0 or of this project, or a .safetensors file of
            export.py. An http(s) address, or the name of missing released weights such as yolov5s.pt, is downloaded
            (``utils.downloads``).
        finite: refuse weights that are not finite.

    Returns:
        The file's dict: 'model' and possibly 'ema' are updated DetectionModels in the file's precision; everything else
        is plain (paths are text, best_fitness is a float or None).

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is damaged, of another kind, or names a class that is not allowed.
        InputError: some weights are not finite.
    """
    path = Path(fetch_weights(path))
    if not path.is_file():
        raise MissingFileError(_missing(path))
    content = {"model": read_model(path)} if path.suffix.lower() == SUFFIX else _read(path)
    _check_kind(path, content)
    checkpoint = plain_checkpoint(content)
    for key in MODULE_KEYS:
        if checkpoint.get(key) is not None:
            check_detector(checkpoint[key], path)
            modernize(checkpoint[key])
            if finite:
                check_finite(checkpoint[key], path)
    if checkpoint.get("model") is None:
        checkpoint["model"] = checkpoint["ema"]
    return checkpoint


# Errors that values without a rule of their own can still cause: no file may end in a traceback
_UNEXPECTED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


def _missing(file: Path) -> str:
    if file.is_dir():
        return f"{file} is a folder, expected a checkpoint file: name the .pt file in it"
    return f"no such checkpoint: {file} (check the path)"


def _read(path: Path) -> Any:
    """The content of a file, with its modules."""
    try:
        return rebuild(read_torch_file(path, module_classes().keys()))
    except Refusal as refusal:
        raise CheckpointError(message(path, refusal)) from refusal
    except _UNEXPECTED as error:
        raise CheckpointError(message(path, Refusal(f"it holds what nothing expects ({error!r:.100})"))) from error


def _check_kind(path: str | Path, content: Any) -> None:
    """Raise CheckpointError unless ``content`` is a dict with a detection model."""
    start = f"{path} is not a YOLOv5 detection checkpoint: expected a dict whose 'model' is a DetectionModel, got "
    if isinstance(content, nn.Module):
        type_name = type(content).__name__
        raise CheckpointError(start + f"a bare {type_name}: save it as torch.save({{'model': model}}, path)")
    if not isinstance(content, dict):
        raise CheckpointError(start + f"an object of type {type(content).__name__}: choose another file")
    candidates = content, content.get("model"), content.get("state_dict")
    weights = next((value for value in candidates if _is_state(value)), None)
    if weights is not None:
        raise CheckpointError(
            start + f"weights alone ({len(weights)} tensors): build the network with models.yolo.DetectionModel from "
            "its YAML, load them with load_state_dict, and save it as {'model': model}"
        )
    models = [content[key] for key in MODULE_KEYS if content.get(key) is not None]
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
    """Add the attributes that models of older releases or of an older torch lack, in place."""
    for module in model.modules():
        if isinstance(module, yolo.Detect):
            _modernize_head(module)
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
    if head.export:  # saved during an export; training needs both outputs
        head.export = False


def deployed(checkpoint: Mapping[str, Any]) -> yolo.DetectionModel:
    """The model of a checkpoint that is deployed: the averaged one (EMA) if there is one."""
    average = checkpoint.get("ema")
    return checkpoint["model"] if average is None else average


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
    channels: int | None = 3,
) -> Any:
    """Load checkpoints for inference: EMA weights where there are any, FP32, eval mode.

    Args:
        weights: a checkpoint file, or several for an ensemble.
        device: where to put the model; default: the CPU.
        inplace: let Detect decode in place (less memory; False for tracing).
        fuse: fold batch norms into their convolutions.
        channels: of the images to come; None accepts any, for callers that make their own images.

    Returns:
        A DetectionModel; of several files an Ensemble with ``names``, ``nc`` and ``yaml`` of the first and the largest
        ``stride``.

    Raises:
        MissingFileError, CheckpointError: a file is missing or cannot be used; InputError: the class counts differ, or
            a model takes images with other channels.
    """
    return load_with_record(weights, device, inplace, fuse, channels)[0]


def load_with_record(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
    channels: int | None = 3,
) -> tuple[Any, TrainingRecord]:
    """The model as ``attempt_load`` loads it, and what the first file records of its training."""
    files = [weights] if isinstance(weights, str | Path) else list(weights)
    if not files:
        raise InputError("no weights given: name at least one checkpoint file")
    members, records = [], []
    for file in files:
        checkpoint = load_checkpoint(file)
        records.append(training_record(checkpoint, file))
        model = deployed(checkpoint).to(device or "cpu").float().eval()
        if channels is not None:
            check_channels(model, file, channels)
        _set_inplace(model, inplace)
        check_runs(model, file)
        members.append(model.fuse().eval() if fuse else model)
    if len(members) == 1:
        return members[0], records[0]
    counts = [model.model[-1].nc for model in members]
    if len(set(counts)) > 1:
        listed = ", ".join(f"{file}: {count}" for file, count in zip(files, counts, strict=True))
        raise InputError(
            f"the models of an ensemble must know the same classes, got {listed} classes: choose files of one data set"
        )
    ensemble: Any = Ensemble(members)
    ensemble.names = members[0].names
    ensemble.nc = counts[0]
    ensemble.yaml = members[0].yaml
    ensemble.stride = max((model.stride for model in members), key=lambda stride: float(stride.max()))
    return ensemble.eval(), records[0]


def read_record(file: str | Path) -> TrainingRecord:
    """The training record of a checkpoint; empty for any other file. Raises as ``load_checkpoint`` does."""
    if not str(file).lower().endswith((".pt", SUFFIX)):
        return TrainingRecord(str(file))
    return training_record(load_checkpoint(file), file)


def with_record_of(file: str | Path, options: Options, splits: Sequence[str] = ("train", "val")) -> Options:
    """The options with data set and image size of the training of ``file`` where they are not given."""
    given: Any = options
    return options if given.data and given.imgsz else with_record(options, read_record(file), splits)


def _set_inplace(model: nn.Module, inplace: bool) -> None:
    """Set ``inplace`` wherever there is one: the model, its head, its activations."""
    for module in model.modules():
        if "inplace" in vars(module):
            module.inplace = inplace  # type: ignore[assignment]


def strip_optimizer(path: str | Path = "best.pt", output: str | Path = "") -> None:
    """Turn a training checkpoint into one for inference: EMA weights as ``model``, FP16, no optimizer, no gradients.

    Args:
        path: the training checkpoint; a stripped one stays as it is.
        output: write there instead of over ``path``.

    Raises:
        MissingFileError, CheckpointError: ``path`` is missing or not a checkpoint. InputError: it is safetensors.
    """
    if Path(path).suffix.lower() == ".safetensors":
        raise InputError(f"{path} holds weights alone: there is no optimizer to strip")
    checkpoint = load_checkpoint(path, finite=False)
    checkpoint["model"] = deployed(checkpoint)
    checkpoint.update(dict.fromkeys(CLEARED_KEYS))
    checkpoint.pop(RESUME_KEY, None)
    checkpoint["epoch"] = -1
    checkpoint["model"].requires_grad_(False)
    target = Path(output or path)
    save_checkpoint(checkpoint, target)
    files = f"{path}, saved as {target}" if output else str(path)
    LOGGER.info(f"Optimizer stripped from {files}, {target.stat().st_size / 1e6:.1f}MB")
