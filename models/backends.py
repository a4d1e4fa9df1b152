"""One way to call a detector, whatever file it comes from: here PyTorch checkpoints (.pt)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.experimental import attempt_load
from utils.checks import check_dataset
from utils.errors import InputError
from utils.log import LOGGER

SUFFIXES = (".pt",)


class DetectMultiBackend(nn.Module):
    """A detector loaded from a file, ready for inference.

    Attributes:
        model: the DetectionModel or Ensemble.
        stride: pixels, at least 32; image sides must be multiples of it.
        names: class names, {index: name}.
        nc: number of classes.
        pt: True, the file is a PyTorch checkpoint.
        fp16: the model computes in FP16, images must be half.
        device: where images must be.
    """

    def __init__(
        self,
        weights: str | Path | Sequence[str | Path] = "yolov5s.pt",
        device: torch.device | str | None = None,
        dnn: bool = False,
        data: str | Path | Mapping[str, Any] | None = None,
        fp16: bool = False,
        fuse: bool = True,
    ) -> None:
        """Load ``weights``.

        Args:
            weights: a .pt file, or several for an ensemble.
            device: default: the CPU.
            dnn: run ONNX files with OpenCV; an error with a .pt file.
            data: data set YAML, or its content, whose names are used if the checkpoint has none and their number fits.
            fp16: compute in FP16, on a GPU.
            fuse: fold batch norms into their convolutions.

        Raises:
            MissingFileError, CheckpointError, InputError: the file cannot be used, or FP16 was asked for on a CPU.
        """
        super().__init__()
        files: list[str | Path] = [weights] if isinstance(weights, str | Path) else list(weights)
        for file in files:
            if Path(file).suffix.lower() not in SUFFIXES:
                raise InputError(f"cannot run {file}: expected a PyTorch checkpoint ({', '.join(SUFFIXES)})")
        self.device = torch.device(device or "cpu")
        if dnn:
            raise InputError(f"dnn runs ONNX files with OpenCV, got {files[0]}: leave dnn out")
        if fp16 and self.device.type == "cpu":
            raise InputError("half precision needs a GPU: leave out --half, or choose one with --device")
        self.pt, self.fp16 = True, fp16
        self.model = attempt_load(files, self.device, fuse=fuse)
        if fp16:
            self.model.half()
        self.stride = max(int(max(self.model.stride)), 32)
        self.names = _class_names(self.model, data)
        self.nc = len(self.names)

    def forward(self, im: torch.Tensor, augment: bool = False, visualize: Any = False) -> tuple[torch.Tensor, Any]:
        """(B, 3, H, W) in 0..1 -> ((B, N, 5 + nc) boxes and scores in pixels, raw maps; None if augmented)."""
        return self.model(im, augment=augment, visualize=visualize)

    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640)) -> None:
        """Run one empty batch of this shape, so that a GPU has everything loaded before times are measured."""
        if self.device.type != "cpu":
            with torch.no_grad():
                self.forward(torch.zeros(*imgsz, device=self.device, dtype=torch.half if self.fp16 else torch.float))


def _class_names(model: Any, data: str | Path | Mapping[str, Any] | None) -> dict[int, str]:
    names, count = getattr(model, "names", None), getattr(model, "nc", 0) or model.model[-1].nc
    if not names and data:
        names = check_dataset(data, splits=())["names"]
        if len(names) != count:
            LOGGER.warning(
                f"the model has {count} classes without names, the data set {len(names)}: they stay nameless"
            )
            names = None
    if not names:
        names = [f"class{index}" for index in range(count)]
    return {int(index): str(name) for index, name in (names.items() if isinstance(names, dict) else enumerate(names))}
