"""Folding a batch norm into the convolution before it."""

from __future__ import annotations

import torch
from torch import nn


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
    mean, variance = bn.running_mean.to(exact), bn.running_var.to(exact)  # type: ignore[union-attr]
    scale = (variance + bn.eps).rsqrt() if bn.weight is None else bn.weight.to(exact) / (variance + bn.eps).sqrt()
    offset = -mean if conv.bias is None else conv.bias.to(exact) - mean
    settings = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode")}
    like = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    fused = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, bias=True, **settings, **like)  # type: ignore[arg-type]
    fused.requires_grad_(conv.weight.requires_grad).train(conv.training)
    fused.weight.copy_(conv.weight.to(exact) * scale.view(-1, 1, 1, 1))
    fused.bias.copy_(scale * offset if bn.bias is None else bn.bias.to(exact) + scale * offset)  # type: ignore[union-attr]
    return fused
