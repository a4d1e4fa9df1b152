"""The detection head: one convolution per level, and the decoding of its outputs to boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import InputError, short_repr


class Detect(nn.Module):
    """One 1x1 convolution per level; outside training its output is decoded to boxes.

    Args:
        nc: classes.
        anchors: for each level a flat list w, h, w, h, ... in pixels (DetectionModel converts it to grid units).
        ch: input channels of each level.
        inplace: decode in place instead of splitting and joining tensors.
    """

    stride: Tensor | None = None  # (nl,) pixels per cell, set by DetectionModel
    onnx_dynamic = False  # rebuild the grids at every call (its name in v6.0 to v6.2)
    dynamic = False  # the same (its name in v7.0)
    export = False  # return the decoded boxes only
    inplace = True
    anchors: Tensor  # (nl, na, 2) in cells

    def __init__(
        self, nc: int = 80, anchors: Sequence[Sequence[float]] = (), ch: Sequence[int] = (), inplace: bool = True
    ) -> None:
        super().__init__()
        if not isinstance(nc, int) or nc < 1:
            raise InputError(f"Detect takes a number of classes above 0, got {short_repr(nc)}")
        if len(anchors) != len(ch):
            raise InputError(f"anchors for {len(anchors)} levels, but Detect reads {len(ch)} layers")
        self.inplace = inplace
        self.nl = len(ch)  # levels
        self.na = len(anchors[0]) // 2  # per level
        self.nc = nc
        self.no = 5 + nc  # per anchor: x, y, w, h, objectness, classes
        # Lists instead of buffers: the state dict of the file format has no grids
        self.grid = [torch.zeros(1) for _ in anchors]
        self.anchor_grid = [torch.zeros(1) for _ in anchors]
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float).reshape(self.nl, self.na, 2))
        self.m = nn.ModuleList(nn.Conv2d(channels, self.na * self.no, kernel_size=1) for channels in ch)

    def forward(self, x: list[Tensor]) -> Any:
        """Maps (B, C_i, ny, nx) -> in training the raw (B, na, ny, nx, no); else ((B, N, no) boxes in pixels, raw)."""
        raw = []
        for convolution, map_ in zip(self.m, x, strict=True):
            values = convolution(map_).unflatten(1, (self.na, self.no))  # (B, na, no, ny, nx)
            raw.append(values.permute(0, 1, 3, 4, 2).contiguous())  # (B, na, ny, nx, no)
        if self.training:
            return raw
        decoded = [self._decode(level, values).flatten(1, 3) for level, values in enumerate(raw)]  # (B, na*ny*nx, no)
        boxes = torch.cat(decoded, dim=1)  # (B, N, no)
        return (boxes,) if self.export else (boxes, raw)

    def _decode(self, level: int, raw: Tensor) -> Tensor:
        """Raw (B, na, ny, nx, no) -> centre x, y, width, height in pixels, then objectness and class scores."""
        self._refresh_grid(level, raw)
        cells = self.grid[level]  # (1, na, ny, nx, 2)
        anchors = self.anchor_grid[level]  # (1, na, ny, nx, 2)
        stride = self._strides()[level]
        values = raw.sigmoid()
        if self.inplace and not values.requires_grad:  # the gradient of sigmoid needs its output unchanged
            values[..., :2].mul_(2).add_(cells).mul_(stride)
            values[..., 2:4].mul_(2).square_().mul_(anchors)
            return values
        centre, size, scores = values.split((2, 2, self.nc + 1), dim=-1)
        return torch.cat(((2 * centre + cells) * stride, (2 * size).square() * anchors, scores), dim=-1)

    def _strides(self) -> Tensor:
        if self.stride is None:
            raise RuntimeError("Detect has no strides yet: they are measured when a DetectionModel is built")
        return self.stride

    def _refresh_grid(self, level: int, raw: Tensor) -> None:
        """Rebuild the cached grids of a level if they do not fit the map ``raw`` (B, na, ny, nx, no)."""
        cached = self.grid[level]
        height, width = raw.shape[2:4]
        same_kind = cached.device == raw.device and cached.dtype == self.anchors.dtype
        fits = same_kind and cached.shape[2:4] == (height, width)
        unusable = cached.is_inference() and not torch.is_inference_mode_enabled()  # autograd refuses such tensors
        if not fits or unusable or self.dynamic or self.onnx_dynamic:
            self.grid[level], self.anchor_grid[level] = self._make_grid(level, height, width, raw.device)

    def _make_grid(self, level: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cell offsets (index - 0.5) and anchors in pixels, both (1, na, height, width, 2), ordered x, y."""
        anchors = self.anchors[level].to(device)  # (na, 2) in cells
        rows = torch.arange(height, device=device, dtype=anchors.dtype)
        columns = torch.arange(width, device=device, dtype=anchors.dtype)
        x = columns.expand(height, width)
        y = rows[:, None].expand(height, width)
        offsets = torch.stack((x, y), dim=-1) - 0.5  # (height, width, 2)
        pixels = anchors * self._strides()[level]  # (na, 2)
        shape = (1, self.na, height, width, 2)
        return offsets.expand(shape), pixels.reshape(1, self.na, 1, 1, 2).expand(shape)

    @torch.no_grad()
    def initialize_biases(self, class_frequencies: Tensor | None = None) -> None:
        """Shift the biases towards 8 objects per 640 px image and equally likely classes, or the given frequencies.

        The prior follows "Focal Loss for Dense Object Detection" (arXiv 1708.02002), section 3.3.
        """
        if class_frequencies is None:
            class_prior = torch.tensor(math.log(0.6 / (self.nc - 0.999999)))
        else:
            class_prior = (class_frequencies / class_frequencies.sum()).log()
        for convolution, stride in zip(self.m, self._strides().tolist(), strict=True):
            if convolution.bias is None:
                continue
            biases = convolution.bias.view(self.na, self.no)  # type: ignore[operator]
            biases[:, 4] += math.log(8 * (stride / 640) ** 2)
            biases[:, 5:] += class_prior.to(biases)


Detect.__module__ = f"{__package__}.yolo"  # the path under which checkpoints pickle it
