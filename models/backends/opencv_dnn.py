"""ONNX files, in OpenCV's DNN module, on the CPU."""

from __future__ import annotations

from pathlib import Path

import cv2
import torch
from torch import Tensor

from models.backends.runtime import Runtime
from models.map_decoder import decoder_of
from models.metadata import parse_texts
from utils.commands.packages import require
from utils.errors import InputError


class OpenCVRuntime(Runtime):
    """OpenCV; the package onnx reads the metadata, which OpenCV cannot."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Load ``path``."""
        onnx = require("onnx", f"--dnn {path}")
        self.device = torch.device("cpu")
        model = onnx.load(str(path), load_external_data=False)
        self.metadata = parse_texts({entry.key: entry.value for entry in model.metadata_props}, path)
        if self.metadata.half or self.metadata.nms:
            what = "computes in FP16" if self.metadata.half else "has NMS inside"
            raise InputError(f"{path} {what}, which OpenCV cannot run: leave out --dnn, or export without it")
        self.net = cv2.dnn.readNetFromONNX(str(path))
        self._decoder = decoder_of(self.metadata, self.device)
        self._outputs = [output.name for output in model.graph.output]

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Runtime``."""
        self.net.setInput(images.cpu().numpy())
        outputs = [torch.from_numpy(array) for array in self.net.forward(self._outputs)]
        return self._decoder(outputs) if self._decoder else outputs[0]
