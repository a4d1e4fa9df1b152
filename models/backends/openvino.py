"""OpenVINO folders, on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from models.backends.runtime import Runtime, folder_file, folder_metadata
from utils.packages import require
from utils.signal_stack import kept_signal_stack


class OpenVINORuntime(Runtime):
    """OpenVINO set up for single requests; files in FP32 are computed in FP32."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Load the folder ``path``, or the .xml file in it."""
        openvino = require("openvino", str(path))
        folder = path.parent if path.suffix.lower() == ".xml" else path
        self.metadata = folder_metadata(folder)
        self.device = torch.device("cpu")
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        if not self.metadata.half:
            settings["INFERENCE_PRECISION_HINT"] = "f32"  # by default it is bfloat16 where the processor has that
        file = path if folder != path else folder_file(folder, "*.xml")
        with kept_signal_stack():
            self.request = openvino.compile_model(str(file), "CPU", settings).create_infer_request()

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Runtime``."""
        output = next(iter(self.request.infer({0: images.cpu().numpy()}).values()))
        return torch.from_numpy(output.copy())  # the request writes its next output into the same memory
