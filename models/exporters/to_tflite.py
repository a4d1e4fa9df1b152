"""TensorFlow Lite (LiteRT) files, made by litert-torch, Google's converter from PyTorch.

The metadata are a zip archive appended to the model, like TensorFlow Lite's own: readers of the model skip it.
"""

from __future__ import annotations

import zipfile

from models.exporters.job import ExportJob
from models.metadata import FILE_NAME
from utils.commands.packages import require


def export(job: ExportJob) -> None:
    """Write ``job.path``: input (B, 3, H, W) and output (B, N, 5 + nc), in pixels, as in PyTorch."""
    litert_torch = require("litert_torch", "--include tflite", "litert-torch")
    litert_torch.convert(job.model, (job.image,)).export(str(job.path))
    with zipfile.ZipFile(job.path, "a") as archive:
        archive.writestr(FILE_NAME, job.metadata.to_json())
