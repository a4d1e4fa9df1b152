"""Layer widths as data: the key ``channels`` of a configuration, written by pruning, read when a model is built.

It maps the path of each module whose width differs from that of the configuration's rows to its widths::

    channels:
      model.2.cv1.conv: [16, 12]    # convolution: input, output channels
      model.2.cv1.bn: [12]          # batch norm
      model.24.m.0: [51]            # one value: inputs only, the outputs stay as built (the head, whose nc may change)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from utils.errors import InputError, one_line, short_repr

SIZED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)


def width_of(module: nn.Module) -> list[int]:
    """[input, output] channels of a convolution or linear layer, [channels] of a batch norm."""
    if isinstance(module, nn.BatchNorm2d):
        return [module.num_features]
    if isinstance(module, nn.Linear):
        return [module.in_features, module.out_features]
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return [module.in_channels, module.out_channels]
    raise InputError(f"a {type(module).__name__} has no width: expected a convolution, linear layer or batch norm")


def head_convolutions(model: nn.Module) -> set[str]:
    """Paths of the convolutions of the detection head, whose outputs follow from nc."""
    layers = model.get_submodule("model")
    last = len(list(layers.children())) - 1
    return {f"model.{last}.m.{level}" for level in range(getattr(layers.get_submodule(str(last)), "nl", 0))}


def measure_widths(model: nn.Module, reference: nn.Module) -> dict[str, list[int]]:
    """The ``channels`` mapping of ``model``: every module whose widths differ from those in ``reference``.

    Raises:
        InputError: the two do not consist of the same modules.
    """
    unmatched = sorted(_sized(model).keys() ^ _sized(reference).keys())
    if unmatched:
        raise InputError(
            f"the two models consist of different modules (such as {unmatched[0]}): give the reference of the same "
            "configuration, and fuse neither or both"
        )
    return differing_widths(model, reference)


def differing_widths(model: nn.Module, reference: nn.Module) -> dict[str, list[int]]:
    """Widths of the modules of ``model`` that differ from those of the module of the same path in ``reference``."""
    plain = _sized(reference)
    head = head_convolutions(model)
    differing = {}
    for path, widths in _sized(model).items():
        if path not in plain:
            continue
        count = 1 if path in head else 2  # the outputs of the head follow from nc
        if widths[:count] != plain[path][:count]:
            differing[path] = widths[:count]
    return differing


def _sized(model: nn.Module) -> dict[str, list[int]]:
    return {path: width_of(module) for path, module in model.named_modules() if isinstance(module, SIZED)}


def apply_widths(model: nn.Module, channels: Mapping[str, Sequence[int]]) -> None:
    """Resize the modules named in ``channels``, in place, with fresh weights; all others stay.

    Raises:
        InputError: a path that is not a convolution, linear layer or batch norm of the model, or impossible widths.
    """
    if not isinstance(channels, Mapping):
        raise InputError(f"channels must map module paths to widths, got a {type(channels).__name__}")
    modules = dict(model.named_modules())
    for path, widths in channels.items():
        module = modules.get(path)
        if not isinstance(module, SIZED):
            raise InputError(f"channels: {path} is not a convolution, linear layer or batch norm of this configuration")
        built = width_of(module)
        valid = isinstance(widths, list | tuple) and all(type(width) is int and width > 0 for width in widths)
        if not valid or not 1 <= len(widths) <= len(built):
            raise InputError(f"channels: {path} must be {len(built)} positive whole numbers, got {short_repr(widths)}")
        try:
            resize(module, [*widths, *built[len(widths) :]])
        except (InputError, RuntimeError) as error:  # RuntimeError: sizes beyond what torch can count
            raise InputError(f"channels: {path}: {one_line(error)}") from error


def resize(module: nn.Module, widths: list[int]) -> None:
    """Give a convolution, linear layer or batch norm these widths (see ``width_of``) and fresh weights, in place."""
    if isinstance(module, nn.BatchNorm2d):
        module.num_features = widths[0]
        for name in ("weight", "bias", "running_mean", "running_var"):
            _renew(module, name, widths)
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = widths
        _renew(module, "weight", widths[::-1])
        _renew(module, "bias", widths[1:])
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.groups = _groups(module, *widths)
        module.in_channels, module.out_channels = widths
        transposed = isinstance(module, nn.ConvTranspose2d)
        rows, columns = widths if transposed else widths[::-1]
        _renew(module, "weight", [rows, columns // module.groups, *module.kernel_size])
        _renew(module, "bias", widths[1:])
    module.reset_parameters()  # type: ignore[operator]


def _groups(module: nn.Conv2d | nn.ConvTranspose2d, inputs: int, outputs: int) -> int:
    """Groups of a resized convolution: one channel per group stays one channel per group, else their number stays."""
    groups = module.groups
    if groups > 1 and groups == module.in_channels:
        groups = inputs
    elif groups > 1 and groups == module.out_channels:
        groups = outputs
    if inputs % groups or outputs % groups:
        raise InputError(f"a convolution in {groups} groups cannot have {inputs} input and {outputs} output channels")
    return groups


def _renew(module: nn.Module, name: str, shape: Sequence[int]) -> None:
    """Replace a parameter or buffer by an uninitialised one of ``shape``; an absent one stays absent."""
    old = getattr(module, name)
    if old is None:
        return
    new = torch.empty(*shape, device=old.device, dtype=old.dtype)
    setattr(module, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
