"""TensorFlow Lite files, in LiteRT, on the CPU."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.backends.runtime import Runtime
from models.map_decoder import decoder_of
from models.metadata import FILE_NAME, Metadata, parse_metadata
from utils.commands.packages import require


class TFLiteRuntime(Runtime):
    """LiteRT's interpreter with its XNNPACK kernels."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Load ``path``."""
        self.metadata = read_metadata(path)
        self.device = torch.device("cpu")
        interpreter: Any = require("ai_edge_litert.interpreter", str(path), "ai-edge-litert").Interpreter
        self.interpreter = interpreter(str(path), num_threads=torch.get_num_threads())
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        outputs = self.interpreter.get_output_details()
        by_name = sorted(outputs, key=lambda output: (len(output["name"]), output["name"]))  # a number per level
        self.outputs = [output["index"] for output in by_name]
        self._decoder = decoder_of(self.metadata, self.device)

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Runtime``."""
        self.interpreter.set_tensor(self.input, images.cpu().numpy())
        self.interpreter.invoke()
        outputs = [torch.from_numpy(self.interpreter.get_tensor(index)) for index in self.outputs]
        return self._decoder(outputs) if self._decoder else outputs[0]


def read_metadata(path: Path) -> Metadata:
    """The metadata in the archive appended to the model."""
    content = None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            content = archive.read(FILE_NAME) if FILE_NAME in archive.namelist() else None
    return parse_metadata(content, path)
