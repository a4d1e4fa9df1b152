"""A detector in the form that is exported: one tensor in, one tensor out, with operators that every runtime has.

The layers are those of the checkpoint; the head decodes all levels at once, with few and simple operators.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from models.head import Detect
from models.yolo import DetectionModel


class ExportHead(nn.Module):
    """Computes the (B, N, 5 + nc) of ``Detect`` with N in the same order (level, anchor, row, column).

    With c = cell index - 0.5, anchor a and stride s in pixels, and v the sigmoid of the raw values: centre = (2v + c)s
    and size = (2v)^2 a. What does not depend on the image is computed beforehand. Boxes are decoded in FP32 even if
    the layers compute in FP16, which cannot represent fractions of a pixel above 1024.

    Args:
        head: the head of the checkpoint, whose convolutions are used.
        shapes: (height, width) of each level's map in cells; None: they depend on the image.
    """

    anchors: Tensor

    def __init__(self, head: Detect, shapes: list[tuple[int, int]] | None) -> None:
        super().__init__()
        self.m = head.m
        self.na = head.na
        self.no = head.no
        self.nc = head.nc
        self.fixed = shapes is not None
        self.strides = [float(stride) for stride in head.stride]  # type: ignore[union-attr]
        strides = torch.tensor(self.strides)[:, None, None]
        self.register_buffer("anchors", head.anchors.detach().float().cpu() * strides, persistent=False)
        constants = [self._constants(level, *shape) for level, shape in enumerate(shapes or [])]
        for name, parts in zip(("offsets", "scales", "areas"), zip(*constants, strict=True), strict=False):
            self.register_buffer(name, torch.cat(parts, dim=1), persistent=False)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (B, C_i, ny, nx) -> (B, N, 5 + nc): centre x, y, width, height in pixels, objectness, class scores."""
        raw = [convolution(map_).float() for convolution, map_ in zip(self.m, maps, strict=True)]
        split = [values.reshape(values.shape[0], self.na, self.no, -1) for values in raw]  # (B, na, no, cells)
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
        centre, size, scores = rows.sigmoid().split((2, 2, self.nc + 1), dim=2)
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


class ExportModel(nn.Module):
    """A fused detector that maps images (B, 3, H, W) in 0..1 to the tensor (B, N, 5 + nc), in FP32.

    Args:
        model: a fused DetectionModel in eval mode; it is copied.
        image_size: (height, width) in pixels, multiples of the stride.
        dynamic: take images of any size.
        half: the layers compute in FP16, images are FP16.
    """

    def __init__(
        self, model: DetectionModel, image_size: tuple[int, int], dynamic: bool = False, half: bool = False
    ) -> None:
        super().__init__()
        network: Any = copy.deepcopy(model).eval().requires_grad_(False)
        head = network.model[-1]
        shapes = None if dynamic else _map_shapes(network, image_size)
        exported: Any = ExportHead(head, shapes).to(head.anchors.device)
        for name in ("i", "f", "type", "np"):
            setattr(exported, name, getattr(head, name))
        if half:
            network.half()
        network.model[-1] = exported
        if half:
            exported.m.half()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, 5 + nc) boxes in pixels and scores."""
        return self.network(images)


@torch.no_grad()
def _map_shapes(network: DetectionModel, image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) in cells of the maps that the head gets; measured, as layers differ in how they round."""
    shapes: list[tuple[int, int]] = []

    def note(_: nn.Module, arguments: tuple[list[Tensor]]) -> None:
        shapes.extend((map_.shape[2], map_.shape[3]) for map_ in arguments[0])

    handle = network.model[-1].register_forward_pre_hook(note)
    network(next(network.parameters()).new_zeros(1, network.yaml.get("ch", 3), *image_size))
    handle.remove()
    return shapes
