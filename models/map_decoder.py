"""Boxes and scores from the maps of a detection head: in exported graphs, and of files that give the maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.metadata import Metadata
from utils.errors import InputError


class MapDecoder(nn.Module):
    """Computes the (B, N, 5 + nc) of ``Detect`` with N in the same order (level, anchor, row, column).

    With c = cell index - 0.5, anchor a and stride s in pixels, and v the sigmoid of the raw values: centre = (2v + c)s
    and size = (2v)^2 a. What does not depend on the image is computed beforehand. Boxes are decoded in FP32 even if
    the layers compute in FP16, which cannot represent fractions of a pixel above 1024.

    Args:
        anchors: (levels, na, 2) width and height in pixels.
        strides: of each level, in pixels.
        shapes: (height, width) of each level's map in cells; None: they depend on the image.
    """

    anchors: Tensor

    def __init__(
        self, anchors: Tensor, strides: Sequence[float], shapes: Sequence[tuple[int, int]] | None = None
    ) -> None:
        super().__init__()
        self.na = anchors.shape[1]
        self.fixed = shapes is not None
        self.strides = [float(stride) for stride in strides]
        self.register_buffer("anchors", anchors, persistent=False)
        constants = [self._constants(level, *shape) for level, shape in enumerate(shapes or [])]
        for name, parts in zip(("offsets", "scales", "areas"), zip(*constants, strict=True), strict=False):
            self.register_buffer(name, torch.cat(parts, dim=1), persistent=False)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Raw maps (B, na * no, ny, nx) -> (B, N, no): centre x, y, width, height in pixels, objectness, class scores.

        ``no`` is 5 + nc.
        """
        if len(maps) != len(self.strides):
            raise InputError(f"it gives {len(maps)} maps, but has anchors for {len(self.strides)}: export it again")
        raw = [values.float() for values in maps]
        split = [values.reshape(values.shape[0], self.na, values.shape[1] // self.na, -1) for values in raw]
        rows = torch.cat([values.transpose(2, 3).flatten(1, 2) for values in split], dim=1)  # (B, N, no)
        if self.fixed:
            offsets = self.offsets
            scales = self.scales
            areas = self.areas
        else:
            levels = [self._constants(level, *values.shape[2:4]) for level, values in enumerate(raw)]
            offsets = torch.cat([constants[0] for constants in levels], dim=1)  # (1, N, 2)
            scales = torch.cat([constants[1] for constants in levels], dim=1)  # (1, N, 1)
            areas = torch.cat([constants[2] for constants in levels], dim=1)  # (1, N, 2)
        centre, size, scores = rows.sigmoid().split((2, 2, rows.shape[2] - 4), dim=2)
        return torch.cat((centre * scales + offsets, size * size * areas, scores), dim=2)

    def _constants(self, level: int, height: Any, width: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Cell offsets times stride, twice the stride, four times the anchors: (1, na * cells, 2, 1 or 2)."""
        anchors = self.anchors[level]  # (na, 2)
        stride = self.strides[level]
        rows = torch.arange(height, device=anchors.device, dtype=torch.float)
        columns = torch.arange(width, device=anchors.device, dtype=torch.float)
        x = columns.expand(height, width)
        y = rows[:, None].expand(height, width)
        cells = torch.stack((x, y), dim=-1).flatten(0, 1)  # (cells, 2)
        offsets = ((cells - 0.5) * stride).repeat(self.na, 1)  # (na * cells, 2)
        spread = torch.ones_like(cells[:, :1])  # repeats by a count that is known only with the image
        areas = (anchors[:, None] * 4 * spread).flatten(0, 1)  # (na * cells, 2)
        return offsets[None], torch.full_like(offsets[:, :1], 2 * stride)[None], areas[None]


def decoder_of(metadata: Metadata, device: torch.device) -> MapDecoder | None:
    """The decoder of a file with raw heads, None for a file that gives boxes."""
    if metadata.anchors is None:
        return None
    return MapDecoder(torch.tensor(metadata.anchors, device=device), metadata.strides or ())
