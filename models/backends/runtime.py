"""The interface of the runtimes of exported files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from models.metadata import FILE_NAME, Metadata, parse_metadata
from utils.errors import MissingFileError


class Runtime(ABC):
    """A library that runs one exported file. CPU runtimes use as many threads as torch does.

    Attributes:
        metadata: of the file.
        device: of the computation.
        largest_batch: most images per call of a dynamic file, or None. largest_size: its largest (height, width).
    """

    metadata: Metadata
    device: torch.device
    largest_batch: int | None = None
    largest_size: tuple[int, int] | None = None

    @abstractmethod
    def __init__(self, path: Path, device: torch.device) -> None:
        """Load ``path``, on ``device`` if this library can compute there, else on the CPU."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """The file's output for images (B, 3, H, W) in 0..1 of the size, batch and precision that it takes."""


def folder_file(path: Path, pattern: str) -> Path:
    """The first file of an exported folder that matches ``pattern``. Raises MissingFileError if there is none."""
    file = next(iter(sorted(path.glob(pattern))), None)
    if file is None:
        raise MissingFileError(f"{path} has no {pattern}: the export is incomplete, export the checkpoint again")
    return file


def folder_metadata(path: Path) -> Metadata:
    """The metadata of an exported folder."""
    file = path / FILE_NAME
    return parse_metadata(file.read_bytes() if file.is_file() else None, path)
