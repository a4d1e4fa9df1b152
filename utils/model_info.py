"""Size and computation of a model: layers, parameters, GFLOPs; folding of its norms."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.log import LOGGER, terminal_text

SMALLEST_GRID = 32  # pixels
_COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.Linear, nn.Upsample)
_TAPS = {"nearest": 1, "bilinear": 4, "bicubic": 16}  # input pixels per output pixel


def count_parameters(model: nn.Module) -> int:
    """Number of parameter elements."""
    return sum(parameter.numel() for parameter in model.parameters())


def _operations(module: nn.Module, read: Tensor, made: Tensor) -> int:
    """Multiply-adds of one call by the rules of thop 0.1.1: activations, pooling and attention weights are free."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return made.numel() * (module.in_channels // module.groups) * math.prod(module.kernel_size)
    if isinstance(module, nn.BatchNorm2d):
        return 4 * read.numel()
    if isinstance(module, nn.Linear):
        return made.numel() * module.in_features
    if isinstance(module, nn.Upsample):
        return made.numel() * _TAPS.get(module.mode, 1)
    return 0


def count_operations(module: nn.Module, sample: Any) -> dict[str, int]:
    """Multiply-adds of one evaluation pass on ``sample``, the input of ``module``, by path of the layer."""
    layers = dict(module.named_modules())
    modes = {path: layer.training for path, layer in layers.items()}
    counts: dict[str, int] = {}

    def counter(path: str) -> Callable[..., None]:
        def count(layer: nn.Module, inputs: tuple[Any, ...], made: Any) -> None:
            counts[path] = counts.get(path, 0) + _operations(layer, inputs[0], made)

        return count

    handles = [
        layer.register_forward_hook(counter(path)) for path, layer in layers.items() if isinstance(layer, _COUNTED)
    ]
    try:
        module.eval()  # norms refuse maps of one pixel in training, and would update their statistics
        with torch.no_grad():
            module(sample)
    finally:
        for handle in handles:
            handle.remove()
        for path, layer in layers.items():
            layer.training = modes[path]
    return counts


def module_gflops(module: nn.Module, sample: Any) -> float:
    """Billions of operations (two per multiply-add) of one evaluation pass on ``sample``, the input of ``module``."""
    return sum(count_operations(module, sample).values()) * 2 / 1e9


def grid_size(model: Any) -> int:
    """Pixels of which the sides of an image must be multiples: the largest stride of ``model``, at least 32."""
    strides = getattr(model, "stride", None)
    return SMALLEST_GRID if strides is None else max(int(torch.as_tensor(strides).max()), SMALLEST_GRID)


def blank_image(model: nn.Module, side: int) -> Tensor | None:
    """Zeros (1, channels, side, side) in the model's device and precision; None if its first layer takes no images.

    The channels are those of the model's YAML: the first convolution of a Focus layer has four times as many.
    """
    first = next(model.parameters(), None)
    if first is None or first.ndim < 2:
        return None
    channels = (getattr(model, "yaml", None) or {}).get("ch") or first.shape[1]
    return torch.zeros(1, int(channels), side, side, dtype=first.dtype, device=first.device)


def gflops(model: nn.Module, imgsz: int | tuple[int, int] = 640) -> float | None:
    """GFLOPs for one image of ``imgsz`` pixels (square, or height and width); None if they cannot be counted.

    Counted at the size of one stride and scaled by area, like YOLOv5's figure: operations that are quadratic in the
    number of pixels (attention) are scaled linearly.
    """
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    side = grid_size(model)
    sample = blank_image(model, side)
    if sample is None:
        return None
    try:
        counted = module_gflops(model, sample)
    # It takes other inputs, or an operation is not available
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, AssertionError):
        return None
    return counted * height / side * width / side


def info_line(model: nn.Module, imgsz: int | tuple[int, int] = 640) -> str:
    """``YOLOv5n summary: 270 layers, 1872157 parameters, 1872157 gradients, 4.6 GFLOPs``."""
    name = terminal_text(Path(getattr(model, "yaml_file", "Model")).stem.replace("yolov5", "YOLOv5"))
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    facts = [f"{len(list(model.modules()))} layers", f"{count_parameters(model)} parameters", f"{trainable} gradients"]
    operations = gflops(model, imgsz)
    if operations is not None:
        facts.append(f"{operations:.1f} GFLOPs")
    return f"{name} summary: {', '.join(facts)}"


def log_info(model: nn.Module, verbose: bool = False, imgsz: int | tuple[int, int] = 640) -> None:
    """Log the info line, and before it, if verbose, one row per parameter with shape, mean and standard deviation."""
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


# -- folding norms ----------------------------------------------------------------------------------------------------


def is_foldable(conv: nn.Module | None, norm: nn.Module | None) -> bool:
    """Tell whether a norm can be folded into its convolution: a batch norm with running statistics."""
    return (
        isinstance(conv, nn.Conv2d)
        and isinstance(norm, nn.modules.batchnorm._BatchNorm)
        and norm.running_mean is not None
        and norm.num_features == conv.out_channels
    )


@torch.no_grad()
def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution with bias that computes what ``bn(conv(x))`` does in evaluation mode.

    With scale = gamma / sqrt(var + eps): weight = scale * weight, bias = beta + scale * (bias - mean). It is computed
    in FP32 at least and stored in the dtype of ``conv``; it is trainable if ``conv`` is.
    """
    exact = torch.promote_types(conv.weight.dtype, torch.float32)
    mean = bn.running_mean.to(exact)  # type: ignore[union-attr]  # (O,), as all that follow
    variance = bn.running_var.to(exact)  # type: ignore[union-attr]
    scale = (variance + bn.eps).rsqrt() if bn.weight is None else bn.weight.to(exact) / (variance + bn.eps).sqrt()
    offset = -mean if conv.bias is None else conv.bias.to(exact) - mean
    settings = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode")}
    like = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    fused = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, bias=True, **settings, **like)  # type: ignore[arg-type]
    fused.requires_grad_(conv.weight.requires_grad).train(conv.training)
    fused.weight.copy_(conv.weight.to(exact) * scale.view(-1, 1, 1, 1))
    fused.bias.copy_(scale * offset if bn.bias is None else bn.bias.to(exact) + scale * offset)  # type: ignore[union-attr]
    return fused
