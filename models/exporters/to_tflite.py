"""TensorFlow Lite (LiteRT) files, made by litert-torch, Google's converter from PyTorch.

The metadata are a zip archive appended to the model, like TensorFlow Lite's own: readers of the model skip it.
"""

from __future__ import annotations

import io
import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from models.exporters.job import ExportJob
from models.exporters.quantization import quantize_tflite
from models.metadata import FILE_NAME
from utils.commands.packages import require


def export(job: ExportJob) -> None:
    """Write ``job.path``: input (B, 3, H, W) and output (B, N, 5 + nc), in pixels, as in PyTorch, or raw maps."""
    with _quiet():
        litert_torch = require("litert_torch", "--include tflite", "litert-torch")
        litert_torch.convert(job.model, (job.image,)).export(str(job.path))
        if job.calibration is not None:
            quantize_tflite(job.path, job.calibration, whole=job.metadata.anchors is not None)
    with zipfile.ZipFile(job.path, "a") as archive:
        archive.writestr(FILE_NAME, job.metadata.to_json())


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the converter prints and warns of: its own steps, and its use of what torch deprecates."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
