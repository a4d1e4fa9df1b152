"""A file to write, and the module that writes its format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from models.metadata import Metadata
from utils.installation import import_own

OUTPUT = "output"  # its name in v6.2
OUTPUT_OF_NMS = "detections"  # another name, for programs that cannot read the metadata

if TYPE_CHECKING:
    from models.exporters.images import ImageBatches


@dataclass(frozen=True)
class GraphSettings:
    """Settings of formats that are made from an ONNX graph; None is the default of each.

    Attributes:
        opset: of ONNX. simplify: by onnxslim. workspace: GiB that TensorRT may build with. verbose: TensorRT logs all.
    """

    opset: int | None = None
    simplify: bool = False
    workspace: float | None = None
    verbose: bool = False


@dataclass
class ExportJob:
    """One file to write.

    Attributes:
        model: maps ``image`` to one tensor, or to one for each level of raw heads (``models.exporters.graph``), on the
            image's device.
        image: example input (batch, 3, H, W) in 0..1, in FP16 for a file that takes FP16 images.
        path: the file or folder to write, with the format's suffix; it does not exist yet.
        metadata: written into the file; states its properties (dynamic, half, nms).
        settings: of the graph.
        outputs: names of the outputs in an ONNX graph.
        calibration: images that determine the ranges of INT8 numbers; None: the file is not INT8.
        source: the checkpoint.
    """

    model: nn.Module
    image: torch.Tensor
    path: Path
    metadata: Metadata
    settings: GraphSettings = field(default_factory=GraphSettings)
    outputs: Sequence[str] = (OUTPUT,)
    calibration: ImageBatches | None = None
    source: Path | None = None


def exporter(argument: str) -> Callable[[ExportJob], None]:
    """The function that writes the format of an ``--include`` argument; it raises InputError if that is impossible."""
    return import_own(f"models.exporters.to_{argument}").export
