"""Narrow single stock modules, in place, to some of their channels."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from utils.errors import InputError


def narrow_module(module: nn.Module, inputs: np.ndarray | None = None, outputs: np.ndarray | None = None) -> None:
    """Keep only the named channels of a convolution, norm or linear layer, in this order.

    Args:
        module: Conv2d or ConvTranspose2d (ungrouped or depthwise), BatchNorm2d or Linear.
        inputs: (K,) indices of the input channels to keep; None: all.
        outputs: (K,) indices of the output channels to keep; None: all. A norm and a depthwise convolution have one
            set of channels: ``inputs`` and ``outputs`` must be equal if both are given.

    Raises:
        InputError: a module of another type, or a grouped convolution whose groups would break.
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
    module: nn.Conv2d | nn.ConvTranspose2d, inputs: np.ndarray | None, outputs: np.ndarray | None
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


def _narrow_norm(module: nn.modules.batchnorm._BatchNorm, kept: np.ndarray) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        _select(module, name, kept, dimension=0)
    module.num_features = len(kept)


def _common(module: nn.Module, inputs: np.ndarray | None, outputs: np.ndarray | None) -> np.ndarray:
    kept = outputs if inputs is None else inputs
    if kept is None or (inputs is not None and outputs is not None and not np.array_equal(inputs, outputs)):
        raise InputError(
            f"a {type(module).__name__} like this has one set of channels: give one list, or two equal ones"
        )
    return kept


def _select(module: nn.Module, name: str, kept: np.ndarray | None, dimension: int) -> None:
    """Replace a parameter or buffer by the ``kept`` entries along ``dimension``; absent ones are skipped."""
    old = getattr(module, name, None)
    if kept is None or old is None:
        return
    values = old.detach().index_select(dimension, torch.as_tensor(kept, device=old.device)).clone()
    is_parameter = isinstance(old, nn.Parameter)
    setattr(module, name, nn.Parameter(values, requires_grad=old.requires_grad) if is_parameter else values)
