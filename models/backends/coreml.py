"""CoreML packages, on macOS."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.backends.runtime import Runtime
from models.metadata import KEY, parse_metadata
from utils.commands.packages import require
from utils.errors import InputError

INPUT = "image"  # name of v6.2


class CoreMLRuntime(Runtime):
    """CoreML, which chooses between CPU, GPU and neural engine itself; one image at a time."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Load the package ``path``. Raises InputError on systems other than macOS."""
        if sys.platform != "darwin":
            raise InputError(f"{path} runs on macOS and iOS only: choose another format here")
        self.model: Any = require("coremltools", str(path)).models.MLModel(str(path))
        self.metadata = parse_metadata(self.model.user_defined_metadata.get(KEY), path)
        self.device = torch.device("cpu")

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Runtime``."""
        from PIL import Image

        pixels = (images[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        (output,) = self.model.predict({INPUT: Image.fromarray(pixels)}).values()
        return torch.from_numpy(output)
