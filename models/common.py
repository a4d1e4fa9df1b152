"""The building blocks of the networks. Checkpoints pickle these classes by path, so they all live here.

Maps are (B, C, H, W). ``c1`` and ``c2`` are input and output channels, ``k`` kernel size, ``s`` stride, ``p`` padding,
``g`` groups, ``n`` repeats, ``e`` the ratio of hidden to output channels. Names of classes, arguments and attributes
are those of the YOLOv5 file format: state dicts and pickles depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

# Names that other people import from here
_MOVED = {
    "DetectMultiBackend": "models.backends",
    "AutoShape": "models.autoshape",
    "Detections": "models.detections",
}


def __getattr__(name: str) -> Any:
    """Find names that live elsewhere only when somebody asks, because their modules import this one."""
    if name in _MOVED:
        return getattr(import_module(_MOVED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def autopad(k: int | Sequence[int], p: int | Sequence[int] | None = None) -> Any:
    """Return ``p``, or the padding that keeps the size of a map under a kernel ``k`` of stride 1 when it is None."""
    if p is not None:
        return p
    return k // 2 if isinstance(k, int) else tuple(size // 2 for size in k)


def _chain(count: int, block: type[nn.Module], *arguments: Any) -> nn.Sequential:
    """``count`` blocks of one kind, one after the other."""
    return nn.Sequential(*(block(*arguments) for _ in range(count)))


def _activation(act: bool | nn.Module | None) -> nn.Module:
    """True means SiLU, a module means itself, anything else means none."""
    if act is True:
        return nn.SiLU()
    return act if isinstance(act, nn.Module) else nn.Identity()


class Conv(nn.Module):
    """Convolution, batch norm, activation. After fusing (``DetectionModel.fuse``) the norm is gone."""

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
        self.act = _activation(act)

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


class DWConvTranspose2d(nn.ConvTranspose2d):
    """Depthwise transposed convolution; ``p1`` is the padding, ``p2`` the output padding."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0) -> None:
        super().__init__(c1, c2, k, stride=s, padding=p1, output_padding=p2, groups=gcd(c1, c2))


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
        attended, _ = self.ma(self.q(x), self.k(x), self.v(x), need_weights=False)
        x = x + attended
        return x + self.fc2(self.fc1(x))


class TransformerBlock(nn.Module):
    """``num_layers`` transformer layers over the pixels of a map; the position code is a linear map (ViT-like)."""

    def __init__(self, c1: int, c2: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.c2 = c2
        self.conv = None if c1 == c2 else Conv(c1, c2)
        self.linear = nn.Linear(c2, c2)
        self.tr = _chain(num_layers, TransformerLayer, c2, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        tokens = x.flatten(2).permute(2, 0, 1)  # (H*W, B, C)
        tokens = self.tr(tokens + self.linear(tokens))
        return tokens.permute(1, 2, 0).reshape(x.shape)


class _ConvPair(nn.Module):
    """The pass of the two residual blocks: cv2 after cv1, plus the input if ``add``."""

    cv1: Conv
    cv2: Conv
    add: bool

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class Bottleneck(_ConvPair):
    """A 1x1 and a 3x3 convolution, with a residual when the widths agree."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden, c2, 3, g=g)
        self.add = bool(shortcut) and c1 == c2


class CrossConv(_ConvPair):
    """A 1xk and a kx1 convolution, with a residual when asked for and the widths agree."""

    def __init__(
        self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, e: float = 1.0, shortcut: bool = False
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, (1, k), (1, s))
        self.cv2 = Conv(hidden, c2, (k, 1), (s, 1), g=g)
        self.add = bool(shortcut) and c1 == c2


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
        self.m = _chain(n, Bottleneck, hidden, hidden, shortcut, g, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        deep, skip = self.cv3(self.m(self.cv1(x))), self.cv2(x)
        return self.cv4(self.act(self.bn(torch.cat((deep, skip), 1))))


class C3(nn.Module):
    """Cross-stage-partial block of three convolutions around ``m``, the part that subclasses exchange."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(c1, hidden)
        self.cv3 = Conv(2 * hidden, c2)
        self.m = self._inner(hidden, n, shortcut, g)

    def _inner(self, width: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The deep branch: ``width`` channels in and out."""
        return _chain(n, Bottleneck, width, width, shortcut, g, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        branches = self.m(self.cv1(x)), self.cv2(x)
        return self.cv3(torch.cat(branches, 1))


class C3x(C3):
    """C3 with cross convolutions."""

    def _inner(self, width: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return _chain(n, CrossConv, width, width, 3, 1, g, 1.0, shortcut)


class C3TR(C3):
    """C3 with ``n`` transformer layers of four heads."""

    def _inner(self, width: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return TransformerBlock(width, width, 4, n)


class C3Ghost(C3):
    """C3 with ghost bottlenecks."""

    def _inner(self, width: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return _chain(n, GhostBottleneck, width, width)


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


class SPP(nn.Module):
    """Spatial pyramid pooling (arXiv 1406.4729): the map beside its maxima over windows of sizes ``k``."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden * (1 + len(k)), c2)
        self.m = nn.ModuleList(nn.MaxPool2d(window, 1, window // 2) for window in k)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.cv1(x)]
        maps += [pool(maps[0]) for pool in self.m]
        return self.cv2(torch.cat(maps, 1))


class SPPF(nn.Module):
    """SPP by repeated pooling: three passes of window 5 see what windows 5, 9 and 13 see, at less cost."""

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
        return self.cv2(torch.cat(maps, 1))


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
        return self.conv(torch.cat(phases, 1))


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
        primary = self.cv1(x)
        return torch.cat((primary, self.cv2(primary)), 1)


class GhostBottleneck(nn.Module):
    """Two ghost convolutions with a residual; at stride 2 a depthwise convolution shrinks either branch."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        hidden, shrinks = c2 // 2, s == 2
        middle = DWConv(hidden, hidden, k, s, act=False) if shrinks else nn.Identity()
        self.conv = nn.Sequential(GhostConv(c1, hidden), middle, GhostConv(hidden, c2, act=False))
        self.shortcut: nn.Module = nn.Identity()
        if shrinks:
            self.shortcut = nn.Sequential(DWConv(c1, c1, k, s, act=False), Conv(c1, c2, act=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)


class Contract(nn.Module):
    """Space to depth: (B, C, H, W) -> (B, gain*gain*C, H/gain, W/gain), pixel offset slowest among the channels."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(3, (-1, self.gain)).unflatten(2, (-1, self.gain))  # (B, C, H/g, dy, W/g, dx)
        return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


class Expand(nn.Module):
    """Depth to space, the inverse of Contract: (B, C, H, W) -> (B, C/gain/gain, H*gain, W*gain)."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(1, (self.gain, self.gain, -1))  # (B, dy, dx, C/g/g, H, W)
        return blocks.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


class Concat(nn.Module):
    """Concatenate a list of maps along ``dimension``."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        return torch.cat(tuple(x), self.d)
