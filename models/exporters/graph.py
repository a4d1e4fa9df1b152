"""A detector in the form that is exported: one tensor in, one tensor out, with operators that every runtime has.

The layers are those of the checkpoint; the head decodes all levels at once, with few and simple operators, or gives
its maps as they are.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from models.exporters.job import OUTPUT
from models.head import Detect
from models.map_decoder import MapDecoder
from models.yolo import DetectionModel


class ExportHead(MapDecoder):
    """The head of a checkpoint: its convolutions, and the decoding of all levels at once.

    Args:
        head: the head of the checkpoint, whose convolutions are used.
        shapes: (height, width) of each level's map in cells; None: they depend on the image.
    """

    def __init__(self, head: Detect, shapes: list[tuple[int, int]] | None) -> None:
        strides = head.stride.tolist()  # type: ignore[union-attr]
        super().__init__(head.anchors.detach().float().cpu() * torch.tensor(strides)[:, None, None], strides, shapes)
        self.m = head.m

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (B, C_i, ny, nx) -> (B, N, 5 + nc): centre x, y, width, height in pixels, objectness, class scores."""
        return super().forward([convolution(map_) for convolution, map_ in zip(self.m, maps, strict=True)])


class RawHead(nn.Module):
    """The convolutions of a head alone, for chips whose compilers stop at them.

    Attributes:
        output_names: of the maps, those that the same tensors have in any other ONNX file of the network. Compilers
            are given them, or the nodes ``/model.24/m.0/Conv``.
    """

    def __init__(self, head: Detect) -> None:
        super().__init__()
        self.m = head.m
        self.output_names = [f"/model.{head.i}/m.{level}/Conv_output_0" for level in range(head.nl)]

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C_i, ny, nx) -> a map (B, na * (5 + nc), ny, nx) for each level, before the sigmoid."""
        return tuple(convolution(map_) for convolution, map_ in zip(self.m, maps, strict=True))


class ExportModel(nn.Module):
    """A fused detector that maps images (B, 3, H, W) in 0..1 to the tensor (B, N, 5 + nc), in FP32, or to raw maps.

    Args:
        model: a fused DetectionModel in eval mode; it is copied.
        image_size: (height, width) in pixels, multiples of the stride.
        dynamic: take images of any size.
        half: the layers compute in FP16, images are FP16.
        raw_heads: the output is that of ``RawHead``.
    """

    def __init__(
        self,
        model: DetectionModel,
        image_size: tuple[int, int],
        dynamic: bool = False,
        half: bool = False,
        raw_heads: bool = False,
    ) -> None:
        super().__init__()
        network: Any = copy.deepcopy(model).eval().requires_grad_(False)
        head = network.model[-1]
        shapes = None if dynamic else _map_shapes(network, image_size)
        exported: Any = RawHead(head) if raw_heads else ExportHead(head, shapes).to(head.anchors.device)
        for name in ("i", "f", "type", "np"):
            setattr(exported, name, getattr(head, name))
        if half:
            network.half()
        network.model[-1] = exported
        self.eval()
        if half:
            exported.m.half()
        self.network = network

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs in an ONNX graph."""
        head: Any = self.network.model[-1]
        return head.output_names if isinstance(head, RawHead) else [OUTPUT]

    def forward(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> (B, N, 5 + nc) boxes in pixels and scores, or the maps of ``RawHead``."""
        return self.network.forward(images)  # a call would put the wrapper's name before the names of ONNX nodes


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
