"""The detection head: one convolution per level, and decoding its outputs to boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import InputError, short_repr


class Detect(nn.Module):
    """One 1x1 convolution per level, decoded to boxes outside training.

    Args:
        nc: classes.
        anchors: for each level a flat list w, h, w, h, ... in pixels (DetectionModel brings it to grid units).
        ch: input channels of each level.
        inplace: decode in slices of one tensor instead of splitting and joining.
    """

    stride: Tensor | None = None  # (nl,) pixels per cell, set by DetectionModel
    onnx_dynamic = False  # rebuild the grids at every call (name of v6.0 to v6.2)
    dynamic = False  # the same (name of v7.0)
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
        levels, pairs = len(anchors), len(anchors[0]) // 2
        self.nc, self.no, self.nl, self.na, self.inplace = nc, nc + 5, levels, pairs, inplace
        # Plain lists, no buffers: the state dict has no grids
        self.grid, self.anchor_grid = ([torch.zeros(1) for _ in anchors] for _ in range(2))
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float).reshape(levels, pairs, 2))
        self.m = nn.ModuleList(nn.Conv2d(channels, pairs * self.no, kernel_size=1) for channels in ch)

    def forward(self, x: list[Tensor]) -> Any:
        """Maps (B, C_i, ny, nx) -> in training the raw (B, na, ny, nx, no); else ((B, N, no) boxes in pixels, raw)."""
        raw = [
            convolution(map_).unflatten(1, (self.na, self.no)).permute(0, 1, 3, 4, 2).contiguous()
            for convolution, map_ in zip(self.m, x, strict=True)
        ]
        if self.training:
            return raw
        boxes = torch.cat([self._decode(level, values).flatten(1, 3) for level, values in enumerate(raw)], dim=1)
        return (boxes,) if self.export else (boxes, raw)

    def _decode(self, level: int, raw: Tensor) -> Tensor:
        """Raw (B, na, ny, nx, no) -> centre x, y, width, height in pixels, then objectness and class scores."""
        self._refresh_grid(level, raw)
        cells, anchors, stride = self.grid[level], self.anchor_grid[level], self._strides()[level]
        values = raw.sigmoid()
        if self.inplace and not values.requires_grad:  # sigmoid's gradient needs its output untouched
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
        """Rebuild the cached grids of a level where they do not fit the map that is to be decoded."""
        cached, (height, width) = self.grid[level], raw.shape[2:4]
        same_kind = cached.device == raw.device and cached.dtype == self.anchors.dtype
        fits = same_kind and cached.shape[2:4] == (height, width)
        borrowed = cached.is_inference() and not torch.is_inference_mode_enabled()  # autograd refuses such tensors
        if not fits or borrowed or self.dynamic or self.onnx_dynamic:
            self.grid[level], self.anchor_grid[level] = self._make_grid(level, height, width, raw.device)

    def _make_grid(self, level: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cell offsets (index - 0.5) and anchors in pixels, both (1, na, height, width, 2), ordered x, y."""
        anchors = self.anchors[level].to(device)
        rows, columns = (torch.arange(count, device=device, dtype=anchors.dtype) for count in (height, width))
        offsets = torch.stack((columns.expand(height, width), rows[:, None].expand(height, width)), dim=-1) - 0.5
        shape = (1, self.na, height, width, 2)
        pixels = anchors * self._strides()[level]
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


Detect.__module__ = "models.yolo"  # the path under which checkpoints pickle it
