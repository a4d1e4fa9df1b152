"""Requirements of a usable detection model (layers and their sources, head, names, numbers) and of commands on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import yolo
from models.common import Conv, Focus
from models.limits import SIDE, check_uncommon, watched_pass
from utils.dataset.classes import MOST_CLASSES
from utils.errors import CheckpointError, InputError
from utils.model_info import grid_size
from utils.torch_files.records import shown

PICTURE_CHANNELS = 3  # of all images from files and cameras
MOST_LAYERS = 1000
MOST_LEVELS = 10
MOST_ANCHORS = 100
MOST_INPUTS = 1000  # channels of an image
LARGEST_STRIDE = SIDE  # pixels; strides are measured on an image of that side
LONGEST_TITLE = 1000  # characters
LONGEST_NAME = 1000
OF_WRAPPERS = ("module", "pt", "fixed_size", "runtime")  # attributes that mark a wrapped model
_TYPE = re.compile(r"[\w.]{1,200}", re.ASCII)  # part of a file name with --visualize


def check_detector(model: nn.Module, path: str | Path) -> None:
    """Raise CheckpointError unless ``model`` can be updated and run.

    Args:
        model: a DetectionModel as built from a file.
        path: the file, for messages.
    """
    problem = _problem(model)
    if problem:
        raise CheckpointError(
            f"the model in {path} is incomplete or of an unknown kind: {problem}; take another copy of the file, "
            "or save it again with the program that wrote it"
        )


def check_finite(model: nn.Module, path: str | Path) -> None:
    """Raise InputError if a weight is not a finite number, by parameter and output channel."""
    for name, values in model.state_dict().items():
        if values.is_floating_point() and not values.isfinite().all():
            index = (~values.isfinite()).nonzero()[0].tolist()
            channel = f" (channel {index[0]})" if index else ""
            raise InputError(
                f"{path}: {name}{channel} is not a finite number: its training has diverged, "
                "take an earlier checkpoint or train again with a lower rate"
            )


@torch.no_grad()
def check_runs(model: nn.Module, path: str | Path) -> None:
    """Raise CheckpointError unless ``model``, in FP32 and evaluation mode, gives finite boxes for a small image.

    Layers that would do too much work are refused before they run, as those of a configuration are.
    """
    facts: Any = model
    parameter = next(model.parameters())
    side = 2 * grid_size(model)
    channels = facts.yaml.get("ch", 3) if isinstance(vars(model).get("yaml"), dict) else 3
    try:
        check_uncommon(facts.model, (1, channels, max(side, SIDE), max(side, SIDE)))
        with watched_pass(facts.model, side, facts.save):
            boxes = model(torch.full((1, channels, side, side), 0.5, device=parameter.device))[0]
        problem = None if bool(boxes.isfinite().all()) else "its boxes are not finite"
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError) as error:
        problem = " ".join(str(error).split())[:200] or type(error).__name__
    if problem:
        raise CheckpointError(
            f"the model in {path} cannot look at a picture of {side} pixels: {problem}; take another copy of the file, "
            "or save it again with the program that wrote it"
        )


def _problem(model: nn.Module) -> str | None:
    """Name the first fault of a detection model, or return None."""
    layers = model._modules.get("model")
    if not isinstance(layers, nn.Sequential) or not 0 < len(layers) <= MOST_LAYERS:
        return "it has no layers"
    if list(layers._modules) != [str(index) for index in range(len(layers))]:
        return "its layers are not numbered one after the other"
    head = layers[-1]
    if not isinstance(head, yolo.Detect) or any(isinstance(layer, yolo.Detect) for layer in layers[:-1]):
        return "its last layer, and no other, must be Detect"
    return (
        _problem_of_rows(layers, vars(model).get("save"))
        or _problem_of_head(head)
        or _problem_of_names(vars(model).get("names"), head.nc)
        or _problem_of_attributes(model, head)
    )


def _problem_of_rows(layers: nn.Sequential, save: Any) -> str | None:
    """Require that each layer reads from layers before it, and that their outputs are kept."""
    if type(save) is not list or len(save) > MOST_LAYERS or any(type(index) is not int for index in save):
        return "it has no list of the layers whose output is kept (save)"
    kept = set(save)
    for index, layer in enumerate(layers):
        facts = vars(layer)
        source = facts.get("f")
        title = facts.get("type")
        sources: list[Any] = source if type(source) is list else [source]
        if type(facts.get("i")) is not int or facts["i"] != index:
            return f"layer {index} has no number, or another one (i)"
        if type(title) is not str or not _TYPE.fullmatch(title):
            return f"layer {index} has no name (type)"
        if not 0 < len(sources) <= MOST_LAYERS or any(type(number) is not int for number in sources):
            return f"layer {index} does not say what it reads (f)"
        for number in sources:
            if number != -1 and not -index <= number < index:
                return f"layer {index} reads layer {number}, which is not before it"
            if number != -1 and number % index not in kept:
                return f"layer {index} reads layer {number % index}, whose output is not kept"
    return None


def _problem_of_head(head: yolo.Detect) -> str | None:
    counts = {"nc": MOST_CLASSES, "no": MOST_CLASSES + 5, "nl": MOST_LEVELS, "na": MOST_ANCHORS}
    for name, most in counts.items():
        value = vars(head).get(name)
        if type(value) is not int or not 1 <= value <= most:
            return f"its head has {shown(value)} as {name}"
    for name in ("inplace", "export", "dynamic", "onnx_dynamic"):
        if type(getattr(head, name)) is not bool:
            return f"its head has {shown(getattr(head, name))} as {name}"
    if head.no != head.nc + 5:
        return f"its head has {head.no} outputs for {head.nc} classes"
    convolutions = head._modules.get("m")
    if not isinstance(convolutions, nn.ModuleList) or len(convolutions) != head.nl:
        return "its head has another number of levels than it says"
    for convolution in convolutions:
        if not isinstance(convolution, nn.Conv2d) or convolution.out_channels != head.na * head.no:
            return "its head has convolutions of another width than it says"
    sources = vars(head)["f"]
    if type(sources) is not list or len(sources) != head.nl:
        return "its head reads another number of layers than it has levels"
    anchors = head._buffers.get("anchors")
    if anchors is None or anchors.shape != (head.nl, head.na, 2) or not anchors.is_floating_point():
        return "its head has no anchors, or others than it says"
    return _problem_of_strides(vars(head).get("stride"), head.nl)


def _problem_of_strides(strides: Any, levels: int) -> str | None:
    if not isinstance(strides, torch.Tensor) or strides.shape not in ((levels,), (1,)):
        return "it has no strides, or another number of them than levels"
    numbers = strides.float()
    if not bool(((numbers >= 1) & (numbers <= LARGEST_STRIDE)).all()):
        return f"its strides are {[round(number, 3) for number in numbers.tolist()]}"
    return None


def _problem_of_names(names: Any, classes: int) -> str | None:
    if not names and (names is None or type(names) in (list, dict, tuple)):
        return None  # a model without names
    if isinstance(names, Mapping):
        if set(names) != set(range(classes)):
            return f"it has names for {len(names)} classes, which are not 0 to {classes - 1}"
        names = list(names.values())
    if type(names) not in (list, tuple) or not all(type(name) in (str, int, float, bool) for name in names):
        return "its class names are not a list of names"
    if len(names) != classes:
        return f"it has {len(names)} names for {classes} classes"
    for name in names:
        if len(str(name)) > LONGEST_NAME:
            return f"its class name {shown(name)} has {len(str(name))} characters"
        try:
            str(name).encode()
        except UnicodeEncodeError:
            return f"its class name {shown(name)} is not text"
    return None


def _problem_of_attributes(model: nn.Module, head: yolo.Detect) -> str | None:
    attributes = vars(model)
    if type(attributes.get("nc", head.nc)) is not int or attributes.get("nc", head.nc) != head.nc:
        return f"it has {shown(attributes['nc'])} as nc, and a head for {head.nc} classes"
    title = attributes.get("yaml_file", "")
    if type(title) is not str or len(title) > LONGEST_TITLE:
        return f"it has {shown(title)} as yaml_file"
    wrapper = next((name for name in OF_WRAPPERS if name in attributes), None)
    if wrapper:
        return f"it has an attribute {wrapper}, as wrappers of models have"
    config = attributes.get("yaml", {})
    if not isinstance(config, dict):
        return "its configuration (yaml) is not a mapping"
    channels = config.get("ch", 3)
    if type(channels) is not int or not 1 <= channels <= MOST_INPUTS:
        return f"its configuration has {shown(channels)} as ch"
    if type(attributes.get("inplace", True)) is not bool:
        return f"it has {shown(attributes['inplace'])} as inplace"
    strides = attributes.get("stride")
    return None if strides is None else _problem_of_strides(strides, head.nl)


# -- requirements of commands ------------------------------------------------------------------------------------------


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
