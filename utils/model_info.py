"""Size and computation of a model: layers, parameters, GFLOPs."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.log import LOGGER

_TAPS = {"nearest": 1, "bilinear": 4, "bicubic": 16}  # input pixels that one output pixel is made of


def count_parameters(model: nn.Module) -> int:
    """Number of parameter elements."""
    return sum(parameter.numel() for parameter in model.parameters())


def _operations(module: nn.Module, given: Tensor, made: Tensor) -> int:
    """Multiply-adds of one call by the rules of thop 0.1.1; activations, pooling and attention weights count nothing."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return made.numel() * (module.in_channels // module.groups) * math.prod(module.kernel_size)
    if isinstance(module, nn.BatchNorm2d):
        return 4 * given.numel()
    if isinstance(module, nn.Linear):
        return made.numel() * module.in_features
    if isinstance(module, nn.Upsample):
        return made.numel() * _TAPS.get(module.mode, 1)
    return 0


def _on_meta(value: Any) -> Any:
    """Tensors (in lists, too) without their data: enough to see shapes."""
    return [_on_meta(entry) for entry in value] if isinstance(value, list | tuple) else value.to("meta")


def module_gflops(module: nn.Module, sample: Any) -> float:
    """Billions of operations (two per multiply-add) of one evaluation pass on ``sample``, a tensor or a list of them.

    Only shapes are computed, on a copy without weights; neither ``module`` nor its cached grids change.
    """
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {id(tensor): _without_data(tensor) for tensor in tensors}
    shadow = copy.deepcopy(module, memo).eval()
    total = 0

    def count(layer: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        nonlocal total
        total += _operations(layer, given[0], made)

    for layer in shadow.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.Linear | nn.Upsample):
            layer.register_forward_hook(count)
    with torch.no_grad():
        shadow(_on_meta(sample))
    return total * 2 / 1e9


def _without_data(tensor: Tensor) -> Tensor:
    shell = torch.empty_like(tensor, device="meta")
    return nn.Parameter(shell, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shell


def gflops(model: nn.Module, imgsz: int | tuple[int, int] = 640) -> float | None:
    """GFLOPs of one image of ``imgsz`` pixels (square, or height and width); None if the model cannot be followed.

    Counted at the size of one stride and scaled by area, as YOLOv5 prints it: what is quadratic in the number of pixels
    (attention) is scaled linearly.
    """
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    strides = getattr(model, "stride", None)
    side = 32 if strides is None else max(int(strides.max()), 32)
    first = next(model.parameters(), None)
    if first is None or first.ndim < 2:
        return None
    try:
        counted = module_gflops(model, torch.empty(1, first.shape[1], side, side, dtype=first.dtype, device="meta"))
    except (RuntimeError, TypeError, ValueError, AttributeError):  # an operation that needs data, or is no copyable module
        return None
    return counted * height / side * width / side


def info_line(model: nn.Module, imgsz: int | tuple[int, int] = 640) -> str:
    """``YOLOv5n summary: 270 layers, 1872157 parameters, 1872157 gradients, 4.6 GFLOPs``."""
    name = Path(getattr(model, "yaml_file", "Model")).stem.replace("yolov5", "YOLOv5")
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    facts = [f"{len(list(model.modules()))} layers", f"{count_parameters(model)} parameters", f"{trainable} gradients"]
    operations = gflops(model, imgsz)
    if operations is not None:
        facts.append(f"{operations:.1f} GFLOPs")
    return f"{name} summary: {', '.join(facts)}"


def log_info(model: nn.Module, verbose: bool = False, imgsz: int | tuple[int, int] = 640) -> None:
    """Log the info line; before it, if verbose, one row per parameter with shape, mean and standard deviation."""
    if not LOGGER.isEnabledFor(logging.INFO):
        return
    if verbose:
        titles = ("layer", "name", "gradient", "parameters", "shape", "mu", "sigma")
        LOGGER.info("%5s %40s %9s %12s %20s %10s %10s", *titles)
        for index, (name, parameter) in enumerate(model.named_parameters()):
            spread = parameter.detach().float().std(unbiased=False).item()
            row = index, name, parameter.requires_grad, parameter.numel(), list(parameter.shape)
            LOGGER.info("%5g %40s %9s %12g %20s %10.3g %10.3g", *row, parameter.detach().float().mean().item(), spread)
    LOGGER.info(info_line(model, imgsz))
