"""ONNX files, in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.backends.runtime import Runtime
from models.map_decoder import decoder_of
from models.metadata import parse_texts
from utils.commands.packages import require
from utils.log import LOGGER

CUDA = "CUDAExecutionProvider"


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, or with its CUDA provider on a GPU."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Load ``path``."""
        onnxruntime: Any = require("onnxruntime", str(path))
        providers: list[Any] = ["CPUExecutionProvider"]
        self.device = torch.device("cpu")
        if device.type == "cuda" and CUDA in onnxruntime.get_available_providers():
            providers.insert(0, (CUDA, {"device_id": device.index or 0}))
            self.device = device
        elif device.type == "cuda":
            LOGGER.warning(f"{path} runs on the CPU: this onnxruntime has no CUDA (pip install onnxruntime-gpu)")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors are raised and need not be logged as well
        self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.input = self.session.get_inputs()[0]
        self.metadata = parse_texts(self._texts(), path)
        self._decoder = decoder_of(self.metadata, self.device)

    def _texts(self) -> dict[str, str]:
        """The file's properties; for files of v6.2, which lack the image size, it is read from the graph."""
        texts = dict(self.session.get_modelmeta().custom_metadata_map)
        shape = self.input.shape
        if "imgsz" not in texts and "names" in texts:
            dynamic = not all(isinstance(side, int) for side in shape)
            sides = [640, 640] if dynamic else shape[2:]
            texts |= {"imgsz": json.dumps(sides), "dynamic": json.dumps(dynamic)}
            texts |= {"batch": json.dumps(1 if dynamic else shape[0]), "half": json.dumps("float16" in self.input.type)}
        return texts

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Runtime``."""
        arrays = self.session.run(None, {self.input.name: images.cpu().numpy()})
        outputs = [torch.from_numpy(array).to(self.device) for array in arrays]
        return self._decoder(outputs) if self._decoder else outputs[0]
