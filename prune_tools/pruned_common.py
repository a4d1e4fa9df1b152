"""Narrow single stock modules to some of their channels, in place: they stay what they are, with fewer channels."""

from __future__ import annotations

import torch
from torch import nn

from utils.errors import InputError


def narrow_module(module: nn.Module, inputs: torch.Tensor | None = None, outputs: torch.Tensor | None = None) -> None:
    """Keep only the named channels of a convolution, norm or linear layer, in this order.

    Args:
        module: Conv2d or ConvTranspose2d (ungrouped or depthwise), BatchNorm2d or Linear.
        inputs: indices of the input channels that stay; None: all.
        outputs: indices of the output channels that stay; None: all. A norm and a depthwise convolution have one set
            of channels: ``inputs`` and ``outputs`` have to be equal where both are given.

    Raises:
        InputError: a module of another kind, or a grouped convolution whose groups would break.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        _narrow_norm(module, _common(module, inputs, outputs))
    elif isinstance(module, nn.Linear):
        _select(module, "weight", outputs, dimension=0)
        _select(module, "weight", inputs, dimension=1)
        _select(module, "bias", outputs, dimension=0)
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        _narrow_convolution(module, inputs, outputs)
    else:
        raise InputError(
            f"cannot narrow a {type(module).__name__}: expected a convolution, a batch norm or a linear layer"
        )


def _narrow_convolution(
    module: nn.Conv2d | nn.ConvTranspose2d, inputs: torch.Tensor | None, outputs: torch.Tensor | None
) -> None:
    if module.groups > 1:
        if not module.groups == module.in_channels == module.out_channels:
            raise InputError(
                f"cannot narrow a convolution in {module.groups} groups: only depthwise ones can follow their input"
            )
        kept = _common(module, inputs, outputs)
        _select(module, "weight", kept, dimension=0)
        module.groups = module.in_channels = module.out_channels = len(kept)
        _select(module, "bias", kept, dimension=0)
        return
    row, column = (1, 0) if isinstance(module, nn.ConvTranspose2d) else (0, 1)  # dimensions of outputs and inputs
    _select(module, "weight", outputs, row)
    _select(module, "weight", inputs, column)
    _select(module, "bias", outputs, dimension=0)
    module.out_channels, module.in_channels = module.weight.shape[row], module.weight.shape[column]


def _narrow_norm(module: nn.modules.batchnorm._BatchNorm, kept: torch.Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        _select(module, name, kept, dimension=0)
    module.num_features = len(kept)


def _common(module: nn.Module, inputs: torch.Tensor | None, outputs: torch.Tensor | None) -> torch.Tensor:
    kept = outputs if inputs is None else inputs
    if kept is None or (inputs is not None and outputs is not None and not torch.equal(inputs, outputs)):
        raise InputError(
            f"a {type(module).__name__} like this has one set of channels: give one list, or two equal ones"
        )
    return kept


def _select(module: nn.Module, name: str, kept: torch.Tensor | None, dimension: int) -> None:
    """Replace a parameter or buffer by the ``kept`` entries along ``dimension``; absent ones are left."""
    old = getattr(module, name, None)
    if kept is None or old is None:
        return
    values = old.detach().index_select(dimension, kept.to(old.device)).clone()
    setattr(
        module, name, nn.Parameter(values, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else values
    )
