"""Rules for the record of a module, checked before the module is built.

Each record is compared with a small example of its class: the same submodules, and the same attributes of the same
kinds. Numbers are limited to several times those of detectors.
"""

from __future__ import annotations

import functools
import keyword
import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from utils.installation import path_in_files
from utils.torch_files.records import (
    ModuleRecord,
    OrderedRecord,
    ParameterRecord,
    Refusal,
    TensorRecord,
    shown,
)

STORES = ("_parameters", "_buffers", "_modules")
_NAME = re.compile(r"\w{1,100}", re.ASCII)
# Attributes with an underscore that modules of some torch version have; others must be empty
_INTERNAL = {"_non_persistent_buffers_set", "_is_full_backward_hook", "_qkv_same_embed_dim", "_padding_repeated_twice",
             "_reversed_padding_repeated_twice", "_version"}  # fmt: skip

MOST_CHANNELS = 2**16
MOST_PIXELS = 2**12  # of the output size of a layer
MOST_STEPS = 2**8  # of kernel sizes, strides and dilations
MOST_PADDING = 64
MOST_GAIN = 8  # factor of a change of the map's size


def _refuse(path: str, what: str) -> None:
    raise Refusal(f"{path} {what}")


# -- kinds of attributes ---------------------------------------------------------------------------------------------


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _each(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: (
        rule(value) or (type(value) in (tuple, list) and 0 < len(value) <= 6 and all(rule(part) for part in value))
    )


def _or_none(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


def _real(least: float, most: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and least <= value <= most


_channels = _whole(1, MOST_CHANNELS)
_steps = _each(_whole(1, MOST_STEPS))
_LAYER_ATTRIBUTES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("in_channels", "out_channels", "num_features", "in_features", "out_features", "embed_dim",
                     "num_heads", "head_dim", "kdim", "vdim", "groups", "num_groups", "num_channels"), _channels),
    **dict.fromkeys(("kernel_size", "dilation"), _steps),
    "stride": _or_none(_steps),
    "padding": _each(lambda value: value in ("same", "valid") or _whole(0, MOST_PADDING)(value)),
    "output_padding": _each(_whole(0, MOST_PADDING)),
    "eps": _real(0, 1), "momentum": _or_none(_real(0, 1)),
    **dict.fromkeys(("size", "output_size"), _each(_or_none(_whole(1, MOST_PIXELS)))),
    "scale_factor": _or_none(_each(_real(1 / MOST_GAIN, MOST_GAIN))),
    **dict.fromkeys(("upscale_factor", "downscale_factor"), _whole(1, MOST_GAIN)),
    "mode": lambda value: value in ("nearest", "linear", "bilinear", "bicubic", "trilinear", "area", "nearest-exact"),
    "padding_mode": lambda value: value in ("zeros", "reflect", "replicate", "circular"),
    "normalized_shape": _each(_channels),
}  # fmt: skip
_BLOCK_ATTRIBUTES: dict[str, Callable[[Any], bool]] = {
    "d": _whole(-4, 4), "gain": _whole(1, MOST_GAIN), "c2": _channels, "iter": lambda value: type(value) is range,
}  # fmt: skip


def _category(value: Any) -> str:
    if type(value) in (tuple, list, int, float):
        return "number"
    return {bool: "bool", str: "text"}.get(type(value), "other")


@functools.cache
def example(module_class: type[nn.Module]) -> nn.Module | None:
    """A small module of a class; None if its constructor takes none of the arguments tried."""
    with torch.random.fork_rng(devices=[]):  # initialisation draws random weights
        for arguments in ((), (1,), (8, 8), (1, 1, 1), (1, (1,)), (8, 8, 1, 1)):
            try:
                return module_class(*arguments)
            except (TypeError, ValueError, IndexError, ArithmeticError, AssertionError, RuntimeError):
                continue
    return None


# -- one module --------------------------------------------------------------------------------------------------------


def check_module(record: ModuleRecord, module_class: type[nn.Module], path: str) -> None:
    """Raise Refusal unless the record is a valid module of class ``module_class``; its submodules are not examined."""
    state: dict[str, Any] = record.state or {}
    for store in STORES:
        if type(state.get(store)) not in (dict, OrderedRecord):
            _refuse(path, f"has no {store}")
    _check_names(state, module_class, path)
    _check_contents(state, path)
    if issubclass(module_class, nn.Sequential | nn.ModuleList) and None in state["_modules"].values():
        _refuse(path, "is a list of layers, and one is missing")
    numbers = [str(index) for index in range(len(state["_modules"]))]
    if issubclass(module_class, nn.ModuleList) and list(state["_modules"]) != numbers:
        _refuse(path, "is a list of layers that are not numbered one after the other")
    if not path_in_files(module_class).startswith("models.yolo."):  # which models.checkpoints.soundness checks
        _compare(state, module_class, path)
    if module_class.__module__.startswith("torch.") or issubclass(module_class, nn.modules.conv._ConvNd):
        _check_layer(state, module_class, path)
    else:
        for name in _BLOCK_ATTRIBUTES.keys() & state.keys():
            if not _BLOCK_ATTRIBUTES[name](state[name]):
                _refuse(path, f"has {shown(state[name])} as its {name}")


def _check_names(state: dict[str, Any], module_class: type[nn.Module], path: str) -> None:
    """Require names that are plain, unique, and hide nothing of the class."""
    taken: set[str] = set()
    for store in STORES:
        for name in state[store]:
            bad = type(name) is not str or not _NAME.fullmatch(name) or name.startswith("__") or name in taken
            if bad or (name in state and state[name] is not None) or _hides(module_class, name):
                _refuse(path, f"has a part named {shown(name)}")
            taken.add(name)
    for name, value in state.items():
        if type(name) is not str or not _NAME.fullmatch(name) or not name.isidentifier() or keyword.iskeyword(name):
            _refuse(path, f"has an attribute named {shown(name)}")
        if name in STORES or name in _INTERNAL:
            continue
        if name.startswith("_"):
            if (value and value is not True) or name.startswith("__"):
                _refuse(path, f"has hooks or other inner state ({name})")
        elif _hides(module_class, name) and not (name == "type" and type(value) is str):  # layers have this one
            _refuse(path, f"has an attribute in place of its method {name}")


def _hides(module_class: type[nn.Module], name: str) -> bool:
    """Tell whether a class has a method, property or nested class of this name."""
    member = getattr(module_class, name, None)
    return callable(member) or hasattr(member, "__get__") or hasattr(nn.Module, name)


def _check_contents(state: dict[str, Any], path: str) -> None:
    for name, value in state["_parameters"].items():
        if value is not None and (
            type(value) is not ParameterRecord
            or not value.tensor.storage.dtype.is_floating_point
            or _overlaps(value.tensor)
        ):
            _refuse(path, f"has an invalid parameter {name}")
    for name, value in state["_buffers"].items():
        if value is not None and (type(value) is not TensorRecord or _overlaps(value)):
            _refuse(path, f"has an invalid buffer {name}")
    for name, value in state["_modules"].items():
        if value is not None and type(value) is not ModuleRecord:
            _refuse(path, f"has a part {name} that is not a module")
    if type(state.get("training")) is not bool:
        _refuse(path, "does not say whether it is training")
    transient = state.get("_non_persistent_buffers_set", set())
    if type(transient) is not set or not transient <= state["_buffers"].keys():
        _refuse(path, "has a set of buffers that do not exist")
    if transient and state["_parameters"]:  # a layer with weights keeps everything in its state dict
        _refuse(path, "has buffers that are not among its weights")


def _overlaps(tensor: TensorRecord) -> bool:
    """Tell whether two elements of a tensor may share memory."""
    extent = 0
    for step, length in sorted(zip(tensor.stride, tensor.size, strict=True)):
        if length > 1 and step <= extent:
            return True
        extent += (length - 1) * step
    return False


def _compare(state: dict[str, Any], module_class: type[nn.Module], path: str) -> None:
    """Require the attributes of the example, of the same kinds; a layer of an older torch may lack later ones."""
    model = example(module_class)  # type: ignore[arg-type]
    if model is None:
        return
    for name in model._modules:
        fused = name == "bn" and hasattr(module_class, "forward_fuse")
        if not fused and name not in state and state["_modules"].get(name) is None:
            _refuse(path, f"lacks its part {name}")
    for store in ("_parameters", "_buffers"):
        for name in getattr(model, store):
            if name not in state[store]:
                _refuse(path, f"lacks its {name}")
    of_torch = module_class.__module__.startswith("torch.")
    for name, value in vars(model).items():
        present = name in state or name in state["_modules"]
        if name.startswith("_") or (not present and of_torch and name not in _LAYER_ATTRIBUTES):
            continue
        if not present:
            _refuse(path, f"lacks its attribute {name}")
        given = state.get(name)
        same_kind = given is None or value is None or _category(given) == _category(value)
        if not same_kind and name not in _LAYER_ATTRIBUTES:
            _refuse(path, f"has {shown(given)} as its {name}")


# -- layers of torch ---------------------------------------------------------------------------------------------------


def _check_layer(state: dict[str, Any], module_class: type[nn.Module], path: str) -> None:
    for name, value in state.items():
        rule = _LAYER_ATTRIBUTES.get(name, _bounded)
        if not name.startswith("_") and name not in ("i", "f", "type", "np") and not rule(value):
            _refuse(path, f"has {shown(value)} as its {name}")
    shapes: dict[str, Any] = {
        name: None if value is None else getattr(value, "tensor", value).size
        for store in ("_parameters", "_buffers")
        for name, value in state[store].items()
    }
    for name, expected in _expected_shapes(state, module_class).items():
        if shapes.get(name) not in (None, expected):
            _refuse(path, f"has a {name} of shape {list(shapes[name])}, expected {list(expected)}")
    if issubclass(module_class, nn.modules.conv._ConvNd | nn.Linear) and shapes.get("weight") is None:
        _refuse(path, "has no weight")


def _bounded(value: Any) -> bool:
    """Tell whether a value is plain and small."""
    if type(value) in (tuple, list):
        return len(value) <= 1000 and all(_bounded(part) for part in value)
    if type(value) in (int, float):
        return abs(value) <= 2**31 or not math.isfinite(value)
    return value is None or type(value) in (bool, range, TensorRecord) or (type(value) is str and len(value) <= 1000)


def _expected_shapes(state: dict[str, Any], module_class: type[nn.Module]) -> dict[str, tuple[int, ...]]:
    """Shapes of parameters and buffers according to the attributes."""
    if issubclass(module_class, nn.modules.conv._ConvNd):
        inputs = state["in_channels"]
        outputs = state["out_channels"]
        groups = state["groups"]
        rows, columns = (inputs, outputs) if state.get("transposed") else (outputs, inputs)
        sizes = state["kernel_size"]
        settings = [state[name] for name in ("kernel_size", "stride", "dilation", "output_padding")]
        settings += [] if type(state["padding"]) is str else [state["padding"]]
        fits = all(type(setting) is tuple and len(setting) == len(sizes) for setting in settings)
        if not fits or inputs % groups or outputs % groups:
            raise Refusal("a convolution whose channels or groups do not fit together")
        return {"weight": (rows, columns // groups, *sizes), "bias": (outputs,)}
    if issubclass(module_class, nn.modules.batchnorm._NormBase):
        shape = (state["num_features"],)
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), shape) | {"num_batches_tracked": ()}
    if issubclass(module_class, nn.Linear):
        return {"weight": (state["out_features"], state["in_features"]), "bias": (state["out_features"],)}
    if issubclass(module_class, nn.MultiheadAttention):
        width = state["embed_dim"]
        heads = state["num_heads"]
        if width % heads or state["head_dim"] * heads != width:
            raise Refusal("an attention whose heads do not fit its width")
        return {"in_proj_weight": (3 * width, width), "in_proj_bias": (3 * width,)}
    return {}
