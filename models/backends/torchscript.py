"""TorchScript files, in PyTorch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor

from models.backends.runtime import Runtime
from models.metadata import parse_metadata
from utils.log import log_once

METADATA_FILE = "config.txt"  # name of v6.2


class TorchScriptRuntime(Runtime):
    """PyTorch's interpreter of TorchScript."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Load ``path`` on ``device``."""
        log_once(
            f"{path} is a program that PyTorch runs: open such files only from sources that you trust",
            logging.INFO,
        )
        extra: dict[str, str | bytes] = {METADATA_FILE: ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it is deprecated, and what replaces it reads other files
            self.module = torch.jit.load(str(path), map_location=device, _extra_files=extra).eval()
        self.metadata = parse_metadata(extra[METADATA_FILE], path)
        self.device = device

    def __call__(self, images: Tensor) -> Tensor:
        """See ``Runtime``."""
        with torch.inference_mode():
            output = self.module(images)
        return output[0] if isinstance(output, (tuple, list)) else output
