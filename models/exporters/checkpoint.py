"""Export one checkpoint: write a file, compare it with the checkpoint, and only then give it its name."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from models.backends import DetectMultiBackend
from models.description import anchors_in_pixels
from models.exporters.agreement import Agreement, agreement
from models.exporters.graph import ExportModel
from models.exporters.graph_nms import WithNms
from models.exporters.images import ImageBatches
from models.exporters.job import OUTPUT_OF_NMS, ExportJob, exporter
from models.exporters.options import NmsSettings
from models.exporters.request import ExportRequest
from models.exporters.verify import Difference, compare
from models.formats import Format
from models.loading import attempt_load
from models.metadata import Metadata
from utils.checks import check_img_size
from utils.dataset.classes import class_names
from utils.downloads import fetch_weights
from utils.log import LOGGER, colorstr, warnings_only
from utils.model_info import grid_size
from utils.storage.files import atomic_output
from utils.version import MADE_BY


class CheckpointExport:
    """A checkpoint, and the images on which its exports are compared."""

    def __init__(self, weights: str | Path, request: ExportRequest, device: torch.device) -> None:
        """Load and fuse ``weights``.

        Raises:
            MissingFileError, CheckpointError: the checkpoint cannot be used.
        """
        self.weights = fetch_weights(weights)
        self.request = request
        self.model = attempt_load(self.weights, device, inplace=False)
        self.stride = grid_size(self.model)
        height, width = check_img_size(list(request.imgsz), self.stride)
        self.size = height, width
        self.images = next(iter(self._comparison(self.size, request.batch))).to(device)
        files = request.calibration_files
        self.calibration = ImageBatches(files, self.size, request.batch) if files else None
        output = tuple(self._predict(self.images).shape)
        LOGGER.info(f"{self.weights}: images {tuple(self.images.shape)}, output {output}")

    def export(self, export_format: Format) -> Path:
        """Write one format next to the checkpoint and return its path.

        Raises:
            InputError: it cannot be written, or computes something else than the checkpoint; then it is removed.
        """
        started = time.perf_counter()
        target = export_format.path(self.weights, self.calibration is not None, self.request.raw_heads)
        with atomic_output(target) as draft:
            exporter(export_format.argument)(self._job(export_format, draft))
            difference = self._compare(export_format, draft)
            size = sum(file.stat().st_size for file in [draft, *draft.rglob("*")] if file.is_file())
        seconds = time.perf_counter() - started
        LOGGER.info(
            f"{colorstr(f'{export_format.title}:')} {target} ({size / 2**20:.1f} MiB, {seconds:.1f} s), {difference}"
        )
        return target

    def _job(self, export_format: Format, path: Path) -> ExportJob:
        request = self.request
        half = request.half and export_format.half_images
        plain = ExportModel(self.model, self.size, request.dynamic, half, request.raw_heads)
        network: nn.Module = WithNms(plain, request.nms) if request.nms else plain
        outputs = [OUTPUT_OF_NMS] if request.nms else plain.output_names
        device = self.images.device if export_format.gpu else torch.device("cpu")
        images = self.images.to(device, torch.half if half else torch.float)
        return ExportJob(
            network.to(device), images, path, self._metadata(), request.graph, outputs, self.calibration, self.weights
        )

    def _metadata(self) -> Metadata:
        request = self.request
        head = self.model.model[-1]
        anchors = anchors_in_pixels(head).unflatten(1, (-1, 2))  # (levels, anchors, 2)
        return Metadata(
            names=class_names(self.model) or [f"class{index}" for index in range(head.nc)],
            stride=self.stride,
            imgsz=list(self.size),
            batch=request.batch,
            dynamic=request.dynamic,
            half=request.half,
            int8=self.calibration is not None,
            nms=request.nms.to_dict() if request.nms else None,
            anchors=anchors.tolist() if request.raw_heads else None,
            strides=head.stride.tolist() if request.raw_heads else None,
            weights=self.weights.name,
            made_by=f"{MADE_BY}, torch {torch.__version__}",
        )

    def _compare(self, export_format: Format, path: Path) -> str:
        """Compare an export with the checkpoint; return the result in words."""
        if export_format.argument == "coreml" and sys.platform != "darwin":
            return "not compared with PyTorch: CoreML models run on Apple's systems only"
        with warnings_only():  # no advice about files of unknown origin: this one has just been written
            backend = DetectMultiBackend(path, device=self.images.device)
        what = f"the {export_format.title} {'INT8 ' if self.calibration else ''}export"
        words = self._judge(backend, what, self.size, self.request.batch)
        other = other_size(self.size, self.stride, at_most=self.size if export_format.argument == "engine" else None)
        if self.request.dynamic and other:
            self._judge(backend, f"{what} at another image size", other, 2)
        return words

    def _judge(self, backend: DetectMultiBackend, what: str, size: tuple[int, int], batch: int) -> str:
        """Compare on images of this size; return the result in words. Raises InputError if the export is wrong."""
        batches = self._comparison(size, batch)
        result: Agreement | Difference
        settings = self.request.nms or NmsSettings()
        if self.calibration is not None:
            result = agreement(backend, self._predict, batches, settings)
        else:
            half = self.request.half or backend.device.type == "cuda"  # on GPUs convolutions are computed in TF32
            result = compare(backend, self._predict, batches, half)
        result.check(what)
        if not result.judged:
            LOGGER.warning(
                f"WARNING: {what} is not judged: in {len(batches) * batch} image(s) there are too few boxes above "
                f"a confidence of {settings.conf_thres:g}; run val.py on it, or give --data whose val images have more"
            )
        return str(result)

    def _comparison(self, size: tuple[int, int], batch: int) -> ImageBatches:
        return ImageBatches(self.request.comparison_files, size, batch, "Comparing")

    @torch.no_grad()
    def _predict(self, images: Tensor) -> Tensor:
        """(B, N, 5 + nc) of the checkpoint in FP32."""
        return self.model(images.to(self.images.device))[0]


def other_size(size: tuple[int, int], stride: int, at_most: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """(height, width) in pixels, about half of ``size`` and not square; None if none is within ``at_most``."""
    height = max(size[0] // 2 // stride, 1) * stride
    width = max(size[1] // 2 // stride, 1) * stride
    candidates = [(height, width), (height, width + stride), (height + stride, width), (height, height)]
    for candidate in candidates:
        fits = at_most is None or (candidate[0] <= at_most[0] and candidate[1] <= at_most[1])
        if fits and candidate != size and (candidate[0] != candidate[1] or at_most):
            return candidate
    return None
