"""The building blocks that few networks use. Import them from ``models.common``, the path in checkpoints.

Letters mean the same as in ``models.blocks``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import gcd

import numpy as np
import torch
from torch import Tensor, nn

from models.blocks import C3, SPP, Bottleneck, Conv, ConvPair, DWConv, chain, concatenate


class TransformerLayer(nn.Module):
    """Attention and a linear pair, each with a residual and without norms. Tokens (L, B, c) -> (L, B, c)."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    ma: nn.MultiheadAttention
    fc1: nn.Linear
    fc2: nn.Linear

    def __init__(self, c: int, num_heads: int) -> None:
        super().__init__()
        for name in ("q", "k", "v", "ma", "fc1", "fc2"):  # the order of the state dict
            attends = name == "ma"
            self.add_module(name, nn.MultiheadAttention(c, num_heads) if attends else nn.Linear(c, c, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)  # (L, B, c)
        x = x + attended
        return x + self.fc2(self.fc1(x))


class TransformerBlock(nn.Module):
    """``num_layers`` transformer layers over the pixels of a map; the position code is a linear map (ViT-like)."""

    def __init__(self, c1: int, c2: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.c2 = c2
        self.conv = None if c1 == c2 else Conv(c1, c2)
        self.linear = nn.Linear(c2, c2)
        self.tr = chain(num_layers, TransformerLayer, c2, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        tokens = x.flatten(2).permute(2, 0, 1)  # (H*W, B, C)
        tokens = self.tr(tokens + self.linear(tokens))  # (H*W, B, C)
        return tokens.permute(1, 2, 0).reshape(x.shape)  # (B, C, H, W)


class C3TR(C3):
    """C3 with ``n`` transformer layers of four heads."""

    def _inner(self, width: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return TransformerBlock(width, width, 4, n)


class GhostConv(nn.Module):
    """Half of the output by a convolution, half by a cheap depthwise one on top of it (arXiv 1911.11907)."""

    def __init__(
        self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool | nn.Module | None = True
    ) -> None:
        super().__init__()
        half = c2 // 2
        self.cv1 = Conv(c1, half, k, s, g=g, act=act)
        self.cv2 = Conv(half, half, 5, g=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.cv1(x)  # (B, c2 / 2, H, W)
        return concatenate((primary, self.cv2(primary)))


class GhostBottleneck(nn.Module):
    """Two ghost convolutions with a residual; at stride 2 a depthwise convolution shrinks either branch."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        hidden = c2 // 2
        shrinks = s == 2
        middle = DWConv(hidden, hidden, k, s, act=False) if shrinks else nn.Identity()
        self.conv = nn.Sequential(GhostConv(c1, hidden), middle, GhostConv(hidden, c2, act=False))
        self.shortcut: nn.Module = nn.Identity()
        if shrinks:
            self.shortcut = nn.Sequential(DWConv(c1, c1, k, s, act=False), Conv(c1, c2, act=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)


class C3Ghost(C3):
    """C3 with ghost bottlenecks."""

    def _inner(self, width: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return chain(n, GhostBottleneck, width, width)


class CrossConv(ConvPair):
    """A 1xk and a kx1 convolution, with a residual when asked for and the widths agree."""

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, e: float = 1.0, shortcut: bool = False
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, (1, k), (1, s))
        self.cv2 = Conv(hidden, c2, (k, 1), (s, 1), g=g)
        self.add = bool(shortcut) and c1 == c2


class C3x(C3):
    """C3 with cross convolutions."""

    def _inner(self, width: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return chain(n, CrossConv, width, width, 3, 1, g, 1.0, shortcut)


class C3SPP(C3):
    """C3 with spatial pyramid pooling; ``n``, ``shortcut`` and ``g`` have no effect, as in the original."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Sequence[int] = (5, 9, 13),
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
    ) -> None:
        super().__init__(c1, c2, 0, shortcut, g, e)
        self.m = SPP(self.cv1.conv.out_channels, self.cv1.conv.out_channels, k)


class BottleneckCSP(nn.Module):
    """Cross-stage-partial block (arXiv 1911.11929) with plain convolutions and one norm after the concatenation."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = nn.Conv2d(c1, hidden, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.cv4 = Conv(2 * hidden, c2)
        self.bn = nn.BatchNorm2d(2 * hidden)
        self.act = nn.SiLU()
        self.m = chain(n, Bottleneck, hidden, hidden, shortcut, g, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.cv3(self.m(self.cv1(x)))  # (B, hidden, H, W)
        skip = self.cv2(x)  # (B, hidden, H, W)
        return self.cv4(self.act(self.bn(torch.cat((deep, skip), 1))))


class Focus(nn.Module):
    """Move 2x2 pixels into channels, then convolve. (B, c1, H, W) -> (B, c2, H/2s, W/2s)."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        act: bool | nn.Module | None = True,
    ) -> None:
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p, g, act)

    def forward(self, x: Tensor) -> Tensor:
        phases = [x[:, :, row::2, column::2] for column in range(2) for row in range(2)]  # the row changes fastest
        return self.conv(torch.cat(phases, 1))  # of (B, 4 c1, H/2, W/2)


class Contract(nn.Module):
    """Space to depth: (B, C, H, W) -> (B, gain*gain*C, H/gain, W/gain), pixel offset slowest among the channels."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(3, (-1, self.gain)).unflatten(2, (-1, self.gain))  # (B, C, H/g, dy, W/g, dx)
        return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)  # of (B, dy, dx, C, H/g, W/g)


class Expand(nn.Module):
    """Depth to space, the inverse of Contract: (B, C, H, W) -> (B, C/gain/gain, H*gain, W*gain)."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(1, (self.gain, self.gain, -1))  # (B, dy, dx, C/g/g, H, W)
        return blocks.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)  # of (B, C/g/g, H, dy, W, dx)


class DWConvTranspose2d(nn.ConvTranspose2d):
    """Depthwise transposed convolution; ``p1`` is the padding, ``p2`` the output padding."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0) -> None:
        super().__init__(c1, c2, k, stride=s, padding=p1, output_padding=p2, groups=gcd(c1, c2))


class Sum(nn.Module):
    """Sum of several maps, optionally weighted by learned factors of 0 to 2 (Tan et al., 2020)."""

    w: nn.Parameter

    def __init__(self, n: int, weight: bool = False):
        super().__init__()
        self.weight = weight
        self.iter = range(n - 1)
        if weight:
            initial = torch.tensor([-0.5 * position for position in range(1, n)])
            self.register_parameter("w", nn.Parameter(initial))

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        """List of (B, C, H, W) -> (B, C, H, W)."""
        if not self.weight:
            return sum(x[1:], start=x[0])
        factors = torch.sigmoid(self.w) * 2  # (n - 1,)
        return sum((factor * map_ for factor, map_ in zip(factors, x[1:], strict=True)), start=x[0])


class MixConv2d(nn.Module):
    """Parallel convolutions of several kernel sizes (Tan and Le, 2019), then batch norm and activation."""

    def __init__(self, c1: int, c2: int, k: tuple[int, ...] = (1, 3), s: int = 1, equal_ch: bool = True):
        super().__init__()
        widths = _equal_channels(c2, len(k)) if equal_ch else _equal_parameters(c2, k)
        self.m = nn.ModuleList(
            nn.Conv2d(c1, width, size, s, size // 2, groups=math.gcd(c1, width), bias=False)
            for size, width in zip(k, widths, strict=True)
        )
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, c1, H, W) -> (B, c2, H / s, W / s)."""
        return self.act(self.bn(torch.cat([convolution(x) for convolution in self.m], dim=1)))


def _equal_channels(total: int, parts: int) -> list[int]:
    """Split ``total`` channels into ``parts`` widths that differ by at most 1."""
    owners = np.floor(np.linspace(0, parts - 1e-6, total))
    return [int((owners == part).sum()) for part in range(parts)]


def _equal_parameters(total: int, kernels: tuple[int, ...]) -> list[int]:
    """Widths that sum to ``total`` and give each kernel size about as many weights, by least squares."""
    count = len(kernels)
    areas = np.array(kernels, dtype=float) ** 2
    equations = np.zeros((count, count))
    equations[0] = 1  # the widths sum to total
    for row in range(1, count):  # neighbours have equally many weights
        equations[row, row - 1] = -areas[row - 1]
        equations[row, row] = areas[row]
    solution, *_ = np.linalg.lstsq(equations, np.array([total] + [0] * (count - 1), dtype=float), rcond=None)
    return [int(width) for width in solution.round()]


for _block in (MixConv2d, Sum):
    _block.__module__ = f"{__package__}.experimental"  # the path under which checkpoints pickle them
