"""ONNX files, with the metadata as properties.

They are written by torch's tracing exporter, which writes the requested opset and needs no further package. The newer
one converts down from its own opset, and keeps that if it fails.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import torch

from models.exporters.job import ExportJob
from models.formats import DEFAULT_OPSET
from utils.commands.packages import require
from utils.errors import InputError

INPUT = "images"  # its name in v6.2
NO_GRAPH = "torchscript"  # a format that is not made from an ONNX graph
_STANDARD_OUTPUT = 1  # file descriptor


def export(job: ExportJob) -> None:
    """Write ``job.path``."""
    onnx = require("onnx", "--include onnx")
    model = onnx_model(job)
    if job.calibration is not None:
        from models.exporters.quantization import quantize_onnx

        model = quantize_onnx(model, job.calibration)
    onnx.save(model, str(job.path))


def onnx_model(job: ExportJob) -> Any:
    """The job as an onnx.ModelProto: checked, with its metadata, and simplified if requested.

    Raises:
        InputError: the opset lacks an operator that the network needs, or a library is missing.
    """
    onnx = require("onnx", "an ONNX graph")
    if job.settings.simplify:
        require("onnxslim", "--simplify")
    opset = job.settings.opset or DEFAULT_OPSET
    printed: list[str] = []
    try:
        with warnings.catch_warnings(), kept_output(printed), TemporaryDirectory() as folder:
            file = str(Path(folder) / "model.onnx")
            warnings.simplefilter("ignore")  # torch recommends its newer exporter
            torch.onnx.export(
                job.model,
                (job.image,),
                file,
                input_names=[INPUT],
                output_names=list(job.outputs),
                opset_version=opset,
                dynamic_axes=_dynamic_axes(job),
                dynamo=False,
            )
            model = onnx.load(file)
        onnx.checker.check_model(model)
    except torch.onnx.errors.UnsupportedOperatorError as error:
        raise InputError(unsupported(str(error), opset, "".join(printed))) from error
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"ONNX opset {opset} cannot hold this network ({reason}): try another --opset, or --include {NO_GRAPH}"
        ) from error
    written = next(entry.version for entry in model.opset_import if not entry.domain)
    if written != opset:
        raise InputError(
            f"torch {torch.__version__} wrote ONNX opset {written} instead of {opset}: choose --opset {written}"
        )
    if job.settings.simplify:
        model = require("onnxslim", "--simplify").slim(model)
    nms = job.metadata.nms
    if nms:  # tracing does not see the sizes of its output
        sides = model.graph.output[0].type.tensor_type.shape.dim
        sides[1].dim_value = nms["topk_all"]
        sides[2].dim_value = 6
        if not job.metadata.dynamic:
            sides[0].dim_value = job.metadata.batch
    for name, text in job.metadata.to_texts().items():
        model.metadata_props.add(key=name, value=text)
    return model


def _dynamic_axes(job: ExportJob) -> dict[str, dict[int, str]]:
    """The axes of inputs and outputs that have no fixed size, by name."""
    if not job.metadata.dynamic:
        return {}
    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}}
    for level, name in enumerate(job.outputs):
        if job.metadata.anchors:
            axes[name] = {0: "batch", 2: f"rows{level}", 3: f"columns{level}"}
        else:
            axes[name] = {0: "batch"} if job.metadata.nms else {0: "batch", 1: "boxes"}
    return axes


@contextmanager
def kept_output(parts: list[str]) -> Iterator[None]:
    """Append what Python or torch's C++ code prints in the block to ``parts`` instead of showing it."""
    sys.stdout.flush()
    text = io.StringIO()
    with TemporaryFile() as file, redirect_stdout(text):
        before = os.dup(_STANDARD_OUTPUT)
        os.dup2(file.fileno(), _STANDARD_OUTPUT)
        try:
            yield
        finally:
            os.dup2(before, _STANDARD_OUTPUT)
            os.close(before)
            file.seek(0)
            parts += [file.read().decode(errors="replace"), text.getvalue()]


def unsupported(message: str, opset: int, graph: str) -> str:
    """The message about an operator that the exporter cannot write, and the module that computes it.

    Args:
        message: torch's message, which may name an opset that has the operator.
        opset: the requested opset.
        graph: the graph that torch printed, in which each operation has its module as scope.
    """
    quoted = re.search(r"'([\w:]+)'", message)
    operator = quoted[1] if quoted else message.partition("\n")[0]
    scope = re.search(rf"= {re.escape(operator)}\(.*scope: (\S+)", graph)
    origin = ""
    if scope:  # Class::name of each module on the path, split by slashes
        steps = [step.rpartition("::") for step in scope[1].split("/")]
        path = ".".join(name for _, _, name in steps if name)
        origin = f", computed by {path} ({steps[-1][0].rpartition('.')[2]})," if path else ""
    start = f"ONNX opset {opset} cannot hold this network: the operator {operator}{origin} "
    newer = re.search(r"added in version (\d+)", message)
    if newer:
        return f"{start}exists from opset {newer[1]} on: choose --opset {newer[1]} or a newer one"
    return (
        f"{start}has no form in ONNX that torch can write, in any opset: replace the layer, or export a format that is "
        f"not made from an ONNX graph, such as --include {NO_GRAPH}"
    )


def saved_onnx(job: ExportJob, folder: Path) -> Path:
    """Write the job's ONNX file into a folder, for the formats that are made from one."""
    path = folder / "model.onnx"
    require("onnx", "an ONNX graph").save(onnx_model(job), str(path))
    return path
