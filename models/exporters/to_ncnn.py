"""ncnn: a folder with the network's parameters, its weights and the metadata, made by pnnx."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from models.exporters import ExportJob
from models.exporters.tracing import traced
from models.metadata import FILE_NAME
from utils.errors import InputError
from utils.packages import require

PARAMETERS, WEIGHTS = "model.ncnn.param", "model.ncnn.bin"


def export(job: ExportJob) -> None:
    """Write the folder ``job.path``; with --half the weights are stored in FP16."""
    pnnx = require("pnnx", "--include ncnn")
    job.path.mkdir()
    shape = ",".join(map(str, job.image.shape))
    with TemporaryDirectory() as name:
        folder = Path(name)
        traced(job).save(str(folder / "model.pt"))
        outputs = {key: folder / f"rest.{key}" for key in ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnpy")}
        outputs |= {"ncnnparam": job.path / PARAMETERS, "ncnnbin": job.path / WEIGHTS}
        command = [pnnx.EXEC_PATH, str(folder / "model.pt"), f"inputshape=[{shape}]", f"fp16={int(job.metadata.half)}"]
        command += [f"{key}={path}" for key, path in outputs.items()]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if run.returncode or not (job.path / WEIGHTS).is_file():
        lines = (run.stderr or run.stdout).strip().splitlines() or ["it said nothing"]
        raise InputError(f"pnnx could not convert the network (exit status {run.returncode}): {lines[-1]}")
    (job.path / FILE_NAME).write_text(job.metadata.to_json(), encoding="utf-8")
