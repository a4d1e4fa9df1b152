"""OpenVINO's IR: a folder with model.xml, its weights and the metadata."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from models.exporters.job import ExportJob
from models.exporters.to_onnx import saved_onnx
from models.metadata import FILE_NAME, KEY
from utils.commands.packages import require


def export(job: ExportJob) -> None:
    """Write the folder ``job.path``; with --half the weights are stored in FP16."""
    openvino = require("openvino", "--include openvino")
    with TemporaryDirectory() as folder:
        model = openvino.convert_model(saved_onnx(job, Path(folder)))
    if job.calibration is not None:
        from models.exporters.quantization import quantize_openvino

        model = quantize_openvino(model, job.calibration)
    model.set_rt_info(job.metadata.to_json(), ["model_info", KEY])
    job.path.mkdir()
    stem = job.path.name.removesuffix("_openvino_model")
    openvino.save_model(model, str(job.path / f"{stem}.xml"), compress_to_fp16=job.metadata.half)
    (job.path / FILE_NAME).write_text(job.metadata.to_json(), encoding="utf-8")
