"""The building blocks that every network uses. Import them from ``models.common``, the path in checkpoints.

Maps are (B, C, H, W). ``c1`` and ``c2`` are input and output channels, ``k`` kernel size, ``s`` stride, ``p`` padding,
``g`` groups, ``n`` repeats, ``e`` the ratio of hidden to output channels. Names of classes, arguments and attributes
are those of the YOLOv5 file format: state dicts and pickles depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn


def autopad(k: int | Sequence[int], p: int | Sequence[int] | None = None) -> Any:
    """Return ``p``, or if it is None the padding with which a kernel ``k`` of stride 1 keeps the size of a map."""
    if p is not None:
        return p
    return k // 2 if isinstance(k, int) else tuple(size // 2 for size in k)


def chain(count: int, block: type[nn.Module], *arguments: Any) -> nn.Sequential:
    """A sequence of ``count`` blocks of one class."""
    return nn.Sequential(*(block(*arguments) for _ in range(count)))


def activation(act: bool | nn.Module | None) -> nn.Module:
    """SiLU for True, a module itself, and no activation for anything else."""
    if act is True:
        return nn.SiLU()
    return act if isinstance(act, nn.Module) else nn.Identity()


def concatenate(maps: Sequence[Tensor], dimension: int = 1) -> Tensor:
    """``torch.cat`` after which the gradient of each map has the map's memory layout.

    The gradients of ``torch.cat`` are strided views of one tensor. On a CPU in channels-last memory the backward pass
    of the activation before it is up to ten times slower with such a view, which costs more than the copy made here.
    """
    for part in maps:
        if part.requires_grad and part.is_cpu and part.is_contiguous(memory_format=torch.channels_last):
            part.register_hook(_in_channels_last)
    return torch.cat(tuple(maps), dimension)


def _in_channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


class Conv(nn.Module):
    """Convolution, batch norm, activation; fusing (``DetectionModel.fuse``) removes the norm."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int | Sequence[int] = 1,
        s: int | Sequence[int] = 1,
        p: int | Sequence[int] | None = None,
        g: int = 1,
        act: bool | nn.Module | None = True,
    ) -> None:
        super().__init__()
        shape = {"kernel_size": k, "stride": s, "padding": autopad(k, p), "groups": g}
        self.conv = nn.Conv2d(c1, c2, bias=False, **shape)
        self.bn = nn.BatchNorm2d(c2)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        if "bn" not in self._modules:
            return self.forward_fuse(x)
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        """The forward pass once the norm is folded into the convolution."""
        return self.act(self.conv(x))


class DWConv(Conv):
    """Depthwise convolution: as many groups as both widths allow."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, act: bool | nn.Module | None = True) -> None:
        super().__init__(c1, c2, k, s, g=gcd(c1, c2), act=act)


class ConvPair(nn.Module):
    """The forward pass of the two residual blocks: cv2 after cv1, plus the input if ``add``."""

    cv1: Conv
    cv2: Conv
    add: bool

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class Bottleneck(ConvPair):
    """A 1x1 and a 3x3 convolution, with a residual when the widths agree."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden, c2, 3, g=g)
        self.add = bool(shortcut) and c1 == c2


class C3(nn.Module):
    """Cross-stage-partial block of three convolutions around ``m``, the part that subclasses replace."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(c1, hidden)
        self.cv3 = Conv(2 * hidden, c2)
        self.m = self._inner(hidden, n, shortcut, g)

    def _inner(self, width: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The deep branch: ``width`` channels in and out."""
        return chain(n, Bottleneck, width, width, shortcut, g, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.m(self.cv1(x))
        skip = self.cv2(x)
        return self.cv3(concatenate((deep, skip)))


class SPP(nn.Module):
    """Spatial pyramid pooling (arXiv 1406.4729): the map joined with its maxima over windows of sizes ``k``."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden * (1 + len(k)), c2)
        self.m = nn.ModuleList(nn.MaxPool2d(window, 1, window // 2) for window in k)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.cv1(x)]
        maps += [pool(maps[0]) for pool in self.m]
        return self.cv2(concatenate(maps))


class SPPF(nn.Module):
    """SPP by repeated pooling: three passes of window 5 equal windows of 5, 9 and 13, at less cost."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(4 * hidden, c2)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        return self.cv2(concatenate(maps))


class Concat(nn.Module):
    """Concatenate a list of maps along ``dimension``."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        return concatenate(x, self.d)
