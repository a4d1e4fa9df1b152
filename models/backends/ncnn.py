"""ncnn folders, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.backends.runtime import Runtime, folder_file, folder_metadata
from utils.commands.packages import require
from utils.errors import InputError

INPUT, OUTPUT = "in0", "out0"  # names given by pnnx


class NcnnRuntime(Runtime):
    """ncnn, one image at a time; files in FP32 are computed in FP32."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Load the folder ``path``."""
        self.ncnn: Any = require("ncnn", str(path))
        self.metadata = folder_metadata(path)
        self.device = torch.device("cpu")
        self.net = self.ncnn.Net()
        options = self.net.opt
        options.num_threads = torch.get_num_threads()
        options.use_vulkan_compute = False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = self.metadata.half
        for load, pattern in ((self.net.load_param, "*.param"), (self.net.load_model, "*.bin")):
            if load(str(folder_file(path, pattern))):
                raise InputError(f"{path}: ncnn cannot read its {pattern} file: it is damaged, export it again")

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Runtime``."""
        extractor = self.net.create_extractor()
        pixels = np.ascontiguousarray(images[0].cpu().numpy())  # Mat only points to it: the name keeps it alive
        extractor.input(INPUT, self.ncnn.Mat(pixels))
        failed, output = extractor.extract(OUTPUT)
        if failed:
            raise InputError(f"ncnn could not compute images of shape {tuple(images.shape)}")
        return torch.from_numpy(np.array(output))[None]
