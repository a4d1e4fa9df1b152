"""The exports of one checkpoint: written by the exporter of the format, compared, and only then given their name."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from models.backends import DetectMultiBackend
from models.experimental import attempt_load
from models.exporters import ExportJob, GraphSettings, exporter
from models.exporters.agreement import agreement
from models.exporters.calibration import CalibrationImages
from models.exporters.graph import ExportModel
from models.exporters.graph_nms import NmsSettings, WithNms
from models.exporters.verify import compare, example_image
from models.formats import Format
from models.metadata import Metadata
from utils.checks import check_img_size
from utils.files import atomic_output
from utils.log import LOGGER, colorstr
from utils.weights import fetch_weights

INT8_IMAGES = 32  # that an INT8 file is compared on


@dataclass(frozen=True)
class ExportRequest:
    """What exports are to be like.

    Attributes:
        imgsz: (height, width) in pixels. batch: images per call. dynamic: any size and batch. half: FP16.
        calibration_files: images that INT8 is calibrated on; none: the exports are not INT8.
        nms: of the suppression inside, None for none. graph: of ONNX graphs and what is made of them.
    """

    imgsz: tuple[int, int]
    batch: int = 1
    dynamic: bool = False
    half: bool = False
    nms: NmsSettings | None = None
    graph: GraphSettings = field(default_factory=GraphSettings)
    calibration_files: Sequence[str] = ()


class CheckpointExport:
    """A checkpoint, and what it gives for the image that its exports are compared on."""

    def __init__(
        self, weights: str | Path, request: ExportRequest, device: torch.device, picture: Path | None = None
    ) -> None:
        """Load and fuse ``weights``; ``picture`` is the image file, None a generated picture.

        Raises:
            MissingFileError, CheckpointError: the checkpoint cannot be used.
        """
        self.weights, self.request = fetch_weights(weights), request
        self.model = attempt_load(self.weights, device, inplace=False)
        self.stride = max(int(max(self.model.stride)), 32)
        height, width = check_img_size(list(request.imgsz), self.stride)
        self.size = height, width
        image = example_image(picture, self.size).to(device)
        self.images = image.expand(request.batch, -1, -1, -1).contiguous()
        self.expected = self._predict(self.images)
        files = request.calibration_files
        self.calibration = CalibrationImages(files, self.size, request.batch) if files else None
        LOGGER.info(f"{self.weights}: images {tuple(self.images.shape)}, output {tuple(self.expected.shape)}")

    def export(self, kind: Format) -> Path:
        """Write one format beside the checkpoint; returns its path.

        Raises:
            InputError: it cannot be written or does not compute what the checkpoint does; then nothing is left of it.
        """
        started, target = time.perf_counter(), kind.path(self.weights, int8=self.calibration is not None)
        with atomic_output(target) as draft:
            exporter(kind.argument)(self._job(kind, draft))
            difference = self._compare(kind, draft)
            size = sum(file.stat().st_size for file in [draft, *draft.rglob("*")] if file.is_file())
        seconds = time.perf_counter() - started
        LOGGER.info(f"{colorstr(f'{kind.title}:')} {target} ({size / 2**20:.1f} MiB, {seconds:.1f} s), {difference}")
        return target

    def _job(self, kind: Format, path: Path) -> ExportJob:
        request = self.request
        half = request.half and kind.half_images
        network: nn.Module = ExportModel(self.model, self.size, request.dynamic, half)
        network = WithNms(network, request.nms) if request.nms else network
        device = self.images.device if kind.gpu else torch.device("cpu")
        images = self.images.to(device, torch.half if half else torch.float)
        return ExportJob(network.to(device), images, path, self._metadata(), request.graph, self.calibration)

    def _metadata(self) -> Metadata:
        request, names = self.request, self.model.names
        return Metadata(
            names=list(names.values()) if isinstance(names, dict) else list(names), stride=self.stride,
            imgsz=list(self.size), batch=request.batch, dynamic=request.dynamic, half=request.half,
            int8=self.calibration is not None, nms=request.nms.to_dict() if request.nms else None,
            weights=self.weights.name, made_by=f"yolov5-prune export.py, torch {torch.__version__}",
        )  # fmt: skip

    def _compare(self, kind: Format, path: Path) -> str:
        """What the comparison with the checkpoint says, in words."""
        if kind.argument == "coreml" and sys.platform != "darwin":
            return "not compared with PyTorch: CoreML models run on Apple's systems only"
        backend = DetectMultiBackend(path, device=self.images.device)
        if self.calibration is not None:
            return self._compare_int8(kind, backend)
        half = self.request.half or backend.device.type == "cuda"  # where convolutions are computed in TF32
        difference = compare(backend, self.expected, self.images)
        difference.check(f"the {kind.title} export", half)
        if self.request.dynamic:
            images = self._images_of_another_shape()
            other = compare(backend, self._predict(images), images)
            other.check(f"the {kind.title} export at another image size", half)
        return str(difference)

    def _compare_int8(self, kind: Format, backend: DetectMultiBackend) -> str:
        """What the boxes in some of the images say, in words."""
        assert self.calibration is not None
        settings = self.request.nms or NmsSettings()
        result = agreement(backend, self._predict, self.calibration.first(INT8_IMAGES), settings)
        result.check(f"the {kind.title} INT8 export")
        if self.request.dynamic:
            agreement(backend, self._predict, [self._images_of_another_shape()], settings)  # that it runs
        return str(result)

    def _images_of_another_shape(self) -> Tensor:
        """Two images of about half the size, not square."""
        height, width = (max(side // 2 // self.stride, 1) * self.stride for side in self.size)
        height = height if height != width else max(height - self.stride, self.stride)
        image = nn.functional.interpolate(self.images[:1], (height, width), mode="bilinear")
        return image.expand(2, -1, -1, -1).contiguous()

    @torch.no_grad()
    def _predict(self, images: Tensor) -> Tensor:
        """(B, N, 5 + nc) of the checkpoint in FP32."""
        return self.model(images.to(self.images.device))[0]
