"""CoreML packages (ML programs, iOS 15 and macOS 12 or newer): an image in, the boxes out."""

from __future__ import annotations

import contextlib
import io
import logging
import sys

from models.backends.coreml import INPUT
from models.exporters.job import ExportJob
from models.exporters.tracing import traced
from models.metadata import KEY
from utils.commands.packages import require

OUTPUT = "output"


def export(job: ExportJob) -> None:
    """Write the folder ``job.path``; the input is an RGB image, and its scaling to 0..1 is part of the model."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it warns of torch versions that it was not tested with
    coremltools = require("coremltools", "--include coreml")
    precision = coremltools.precision.FLOAT16 if job.metadata.half else coremltools.precision.FLOAT32
    picture = coremltools.ImageType(name=INPUT, shape=tuple(job.image.shape), scale=1 / 255)
    progress = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    with progress:
        model = coremltools.convert(
            traced(job),
            inputs=[picture],
            outputs=[coremltools.TensorType(name=OUTPUT)],
            convert_to="mlprogram",
            compute_precision=precision,
            minimum_deployment_target=coremltools.target.iOS15,
        )
    model.short_description = job.metadata.made_by
    model.user_defined_metadata[KEY] = job.metadata.to_json()
    model.save(str(job.path))
