"""Modules as data: the key ``modules`` of a configuration, for what its rows cannot express.

It maps the path of a module to the settings that differ from those of the rows, or to another module::

    modules:
      model.0.conv: {padding: [2, 2], dilation: [2, 2]}
      model.0.bn: {eps: 1.0e-05, momentum: 0.1}
      model.2.cv1.act: nn.ReLU()

A setting is a plain attribute that may affect the output, or the presence of an optional parameter or buffer:
``bias: false``. Widths are not settings: see models/widths.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.activations import ACTIVATIONS, LARGEST_NUMBER, module_text, parse_module
from models.head import Detect
from models.widths import SIZED, resize, width_of
from utils.errors import InputError

LAYERS: dict[str, type[nn.Module]] = {
    **ACTIVATIONS,
    **{
        layer_class.__name__: layer_class
        for layer_class in (
            nn.AvgPool2d, nn.BatchNorm2d, nn.ConstantPad2d, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.ReflectionPad2d,
            nn.ReplicationPad2d, nn.Upsample, nn.ZeroPad2d,
        )
    },
}  # fmt: skip
LARGEST_KERNEL = 2**28  # weights
NORM_EPS = 1e-3  # of every batch norm of a detection model
NORM_MOMENTUM = 0.03
_BOOKKEEPING = {
    "training", "inplace", "name", "i", "f", "type", "np",
    "in_channels", "out_channels", "num_features", "in_features", "out_features", "c2", "embed_dim", "kdim", "vdim",
    "head_dim",
}  # fmt: skip
_OF_DETECT = {"nc", "no", "nl", "na", "grid", "anchor_grid", "stride", "export", "dynamic", "onnx_dynamic", "anchors"}


# -- what modules are --------------------------------------------------------------------------------------------------


def settings_of(module: nn.Module) -> dict[str, Any]:
    """The settings of one module by name: tuples as lists, parameters and buffers as True if present."""
    left_out = _BOOKKEEPING | (_OF_DETECT if isinstance(module, Detect) else set())
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in left_out and _is_plain(value)
    }
    if settings.get("padding_mode", "zeros") != "zeros" and isinstance(settings["padding"], list):
        sides: Any = module._reversed_padding_repeated_twice  # what such a convolution uses instead of its padding
        settings["padding"] = [sides[-1], sides[0]]
    held = {**module._parameters, **module._buffers}
    return settings | {name: value is not None for name, value in held.items() if name not in left_out}


def _is_plain(value: Any) -> bool:
    scalar = value is None or isinstance(value, bool | int | float | str)
    return scalar or (isinstance(value, tuple | list) and all(isinstance(one, int | float) for one in value))


@dataclass(frozen=True)
class Difference:
    """A setting in which a module differs from its counterpart.

    Attributes:
        path: of the module. setting: its name; '' if the modules are of different classes.
        got, expected: the values of the module and of its counterpart, or the two modules.
    """

    path: str
    setting: str
    got: Any
    expected: Any

    def words(self, here: str, there: str) -> str:
        """The difference in words; ``here`` and ``there`` name the two sides, such as 'in the checkpoint'."""
        name = f"{self.path}.{self.setting}" if self.setting else self.path
        return f"{name} is {_shown(self.got)} {here} and {_shown(self.expected)} {there}"


def _shown(value: Any) -> str:
    if not isinstance(value, nn.Module):
        return repr(value)
    try:
        return module_text(value) if type(value).__name__ in LAYERS else f"a {type(value).__name__}"
    except AttributeError:
        return f"a {type(value).__name__}"


def differences(model: nn.Module, reference: nn.Module) -> list[Difference]:
    """All differences between two networks except weights and widths; ``reference`` has the expected values."""
    ours = model.get_submodule("model")
    theirs = reference.get_submodule("model")
    result = list(_compare("model", ours, theirs))
    for (index, layer), twin in zip(ours.named_children(), theirs.children(), strict=False):
        if vars(layer).get("f") != vars(twin).get("f"):
            result.append(Difference(f"model.{index}", "f", vars(layer).get("f"), vars(twin).get("f")))
    return result


def _compare(path: str, ours: nn.Module, theirs: nn.Module) -> Iterator[Difference]:
    """Yield the differences of two modules and of their submodules, which have this path."""
    if not _alike(type(ours), type(theirs)):
        yield Difference(path, "", ours, theirs)
        return
    got = settings_of(ours)
    for name, expected in settings_of(theirs).items():
        if name in got and got[name] != expected:
            yield Difference(path, name, got[name], expected)
    parts = _parts(ours)
    others = _parts(theirs)
    if parts.keys() != others.keys():
        yield Difference(path, "parts", list(parts), list(others))
    for name, part in parts.items():
        if name in others:
            yield from _compare(f"{path}.{name}", part, others[name])


def _parts(module: nn.Module) -> dict[str, nn.Module]:
    return {name: part for name, part in module._modules.items() if part is not None}


def _alike(first: type, second: type) -> bool:
    """Tell whether modules of two classes with equal parts and settings compute the same."""
    related = issubclass(first, second) or issubclass(second, first)
    return first is second or (related and first.forward is second.forward)  # type: ignore[attr-defined]


def measure_modules(model: nn.Module, reference: nn.Module) -> dict[str, Any]:
    """The ``modules`` mapping of ``model``: its differences from ``reference``, which has the same widths.

    Raises:
        InputError: a difference that no configuration can express; the message names it.
    """
    modules: dict[str, Any] = {}
    for difference in differences(model, reference):
        path = difference.path
        if difference.setting in ("parts", "f"):
            raise InputError(difference.words("in the network", "in its configuration"))
        if difference.setting:
            modules.setdefault(path, {})[difference.setting] = difference.got
            continue
        layer_class = type(difference.got)
        if LAYERS.get(layer_class.__name__) is not layer_class:
            raise InputError(difference.words("in the network", "in its configuration"))
        modules[path] = module_text(difference.got)
    return modules


# -- modules from data -------------------------------------------------------------------------------------------------


def apply_modules(model: nn.Module, modules: Mapping[str, Any]) -> None:
    """Apply settings to the modules named in ``modules``, or replace them, in place.

    Raises:
        InputError: a path that the model does not have, an unknown setting, or an invalid value.
    """
    if not isinstance(modules, Mapping):
        raise InputError(f"modules must map module paths to settings, got a {type(modules).__name__}")
    for path, entry in modules.items():
        try:
            module = model.get_submodule(path) if isinstance(path, str) and path.startswith("model.") else None
        except AttributeError:
            module = None
        if module is None:
            raise InputError(f"modules: {path} is not a module of this configuration")
        if isinstance(entry, Mapping):
            _set(module, entry, f"modules: {path}")
            continue
        new = parse_module(entry, LAYERS, f"modules: {path}")
        vars(new).update({name: vars(module)[name] for name in ("i", "f", "type", "np") if name in vars(module)})
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, new)


def _set(module: nn.Module, changes: Mapping[str, Any], where: str) -> None:
    """Change settings of one module; parameters whose shape changes are re-initialised."""
    known = settings_of(module)
    for name, value in changes.items():
        if name not in known:
            raise InputError(f"{where} has no setting {name}: known are {', '.join(known) or 'none'}")
        if not _possible(name, value, known[name]):
            raise InputError(f"{where}.{name} cannot be {value!r}, it is {known[name]!r} by default")
        if name not in module._parameters and name not in module._buffers:
            pair = isinstance(known[name], list) and type(value) is int
            setattr(module, name, (value,) * len(known[name]) if pair else _tuple(value))
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        _finish_convolution(module, changes, where)
    for name, value in changes.items():
        if name in module._parameters or name in module._buffers:
            _hold(module, name, value, where)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _possible(name: str, value: Any, default: Any) -> bool:
    """Tell whether a value suits a setting with this default; other errors show in the first pass of the network."""
    if value is None:
        return not isinstance(default, str)
    if isinstance(value, str):
        return isinstance(default, str) or name == "padding"
    if isinstance(value, bool) or isinstance(default, bool | str):
        return isinstance(value, bool) and (default is None or isinstance(default, bool))
    numbers = value if isinstance(value, list | tuple) else [value]
    return 0 < len(numbers) <= 4 and all(
        type(number) in (int, float) and math.isfinite(number) and abs(number) <= LARGEST_NUMBER for number in numbers
    )


def _finish_convolution(module: nn.Conv2d | nn.ConvTranspose2d, changes: Mapping[str, Any], where: str) -> None:
    """Update what depends on the settings of a convolution."""
    if changes.keys() & {"kernel_size", "groups"}:
        sides = module.kernel_size
        valid = isinstance(sides, tuple) and len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)
        inputs, outputs = width_of(module)
        groups = module.groups
        if type(groups) is not int or groups < 1 or inputs % groups or outputs % groups:
            raise InputError(f"{where}.groups cannot be {groups!r} with {inputs} input and {outputs} output channels")
        if not valid or inputs * outputs // groups * math.prod(sides) > LARGEST_KERNEL:
            raise InputError(f"{where}.kernel_size cannot be {sides!r}")
        resize(module, [inputs, outputs])
    padding = module.padding
    if changes.keys() & {"padding", "padding_mode"} and isinstance(padding, tuple) and len(padding) == 2:
        vars(module)["_reversed_padding_repeated_twice"] = (padding[1], padding[1], padding[0], padding[0])


def _hold(module: nn.Module, name: str, present: bool, where: str) -> None:
    """Add or remove a parameter or buffer of a module."""
    is_parameter = name in module._parameters
    if present == (getattr(module, name) is not None):
        return
    if not present:
        setattr(module, name, None)
        return
    if not isinstance(module, SIZED):
        raise InputError(f"{where} cannot have {name}")
    values = torch.full(width_of(module)[-1:], 1.0 if name in ("weight", "running_var") else 0.0)
    if name == "num_batches_tracked":
        values = torch.tensor(0)
    setattr(module, name, nn.Parameter(values) if is_parameter else values)


def set_norms(network: nn.Module, modules: Mapping[str, Any] | None) -> None:
    """Set eps and momentum of all batch norms to a detection model's values, unless ``modules`` sets them."""
    for path, module in network.named_modules():
        if type(module) is nn.BatchNorm2d:
            entry = (modules or {}).get(path, {})
            own = ("eps", "momentum") if isinstance(entry, str) else entry
            module.eps = module.eps if "eps" in own else NORM_EPS
            module.momentum = module.momentum if "momentum" in own else NORM_MOMENTUM
