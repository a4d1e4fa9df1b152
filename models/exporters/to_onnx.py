"""ONNX files, with the metadata as properties.

torch's tracing exporter writes them: it writes the opset that was asked for, where the newer one converts down from
its own and, when that fails, keeps it; and it needs no further package.
"""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from models.exporters import ExportJob
from models.formats import DEFAULT_OPSET
from utils.errors import InputError
from utils.packages import require

INPUT, OUTPUT = "images", "output"  # names of v6.2
OUTPUT_OF_NMS = "detections"  # told apart by name where metadata cannot be read


def export(job: ExportJob) -> None:
    """Write ``job.path``."""
    onnx = require("onnx", "--include onnx")
    model = onnx_model(job)
    if job.calibration is not None:
        from models.exporters.quantization import quantize_onnx

        model = quantize_onnx(model, job.calibration)
    onnx.save(model, str(job.path))


def onnx_model(job: ExportJob) -> Any:
    """The job as an onnx.ModelProto, checked, with its metadata, and simplified if that is wanted.

    Raises:
        InputError: the opset lacks an operator that the network needs, or a library is missing.
    """
    onnx = require("onnx", "an ONNX graph")
    if job.settings.simplify:
        require("onnxslim", "--simplify")
    opset = job.settings.opset or DEFAULT_OPSET
    nms, output = job.metadata.nms, OUTPUT_OF_NMS if job.metadata.nms else OUTPUT
    axes: dict[str, dict[int, str]] = {}
    if job.metadata.dynamic:
        axes = {INPUT: {0: "batch", 2: "height", 3: "width"}, output: {0: "batch"} if nms else {0: "batch", 1: "boxes"}}
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), TemporaryDirectory() as folder:
            file = str(Path(folder) / "model.onnx")
            warnings.simplefilter("ignore")  # torch prefers its newer exporter
            torch.onnx.export(
                job.model, (job.image,), file, input_names=[INPUT], output_names=[output], opset_version=opset,
                dynamic_axes=axes, dynamo=False,
            )  # fmt: skip
            model = onnx.load(file)
        onnx.checker.check_model(model)
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"ONNX opset {opset} cannot hold this network ({reason}): choose a newer --opset") from error
    written = next(entry.version for entry in model.opset_import if not entry.domain)
    if written != opset:
        raise InputError(
            f"torch {torch.__version__} wrote ONNX opset {written} instead of {opset}: choose --opset {written}"
        )
    if job.settings.simplify:
        model = require("onnxslim", "--simplify").slim(model)
    if nms:  # whose sides tracing does not see
        sides = model.graph.output[0].type.tensor_type.shape.dim
        sides[1].dim_value, sides[2].dim_value = nms["topk_all"], 6
        if not job.metadata.dynamic:
            sides[0].dim_value = job.metadata.batch
    for name, text in job.metadata.to_texts().items():
        model.metadata_props.add(key=name, value=text)
    return model


def saved_onnx(job: ExportJob, folder: Path) -> Path:
    """The job's ONNX file in a folder, for the formats that are made from one."""
    path = folder / "model.onnx"
    require("onnx", "an ONNX graph").save(onnx_model(job), str(path))
    return path
