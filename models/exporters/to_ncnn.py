"""ncnn: a folder with the network's parameters, its weights and the metadata, converted by pnnx."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from models.exporters.job import ExportJob
from models.exporters.tracing import traced
from models.metadata import FILE_NAME
from utils.commands.packages import require
from utils.errors import InputError

PARAMETERS, WEIGHTS = "model.ncnn.param", "model.ncnn.bin"
COMPLAINT = re.compile(
    r"error|fail|cannot|can't|unable|unsupported|not supported|unknown|invalid|exception|abort", re.I
)
QUOTED_LINES, QUOTED_CHARACTERS = 3, 300


def export(job: ExportJob) -> None:
    """Write the folder ``job.path``; with --half the weights are stored in FP16."""
    pnnx = require("pnnx", "--include ncnn")
    job.path.mkdir()
    target = job.path.resolve()  # pnnx runs in another folder, where it leaves further files
    shape = ",".join(map(str, job.image.shape))
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        traced(job).save(str(folder / "model.pt"))
        outputs = {key: folder / f"rest.{key}" for key in ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnpy")}
        outputs |= {"ncnnparam": target / PARAMETERS, "ncnnbin": target / WEIGHTS}
        program = str(Path(pnnx.EXEC_PATH).resolve())
        command = [program, str(folder / "model.pt"), f"inputshape=[{shape}]", f"fp16={int(job.metadata.half)}"]
        command += [f"{key}={path}" for key, path in outputs.items()]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    written = all((target / file).is_file() for file in (PARAMETERS, WEIGHTS))
    if run.returncode or not written:
        said = complaints(run.stdout + "\n" + run.stderr)
        raise InputError(f"pnnx could not convert the network (exit status {run.returncode}): {said}")
    (job.path / FILE_NAME).write_text(job.metadata.to_json(), encoding="utf-8")


def complaints(output: str) -> str:
    """The first lines of a program's output that report a problem, joined in one line; without any, its last lines."""
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    problems = [line for line in lines if COMPLAINT.search(line)][:QUOTED_LINES]
    text = "; ".join(dict.fromkeys(problems or lines[-QUOTED_LINES:])) or "it printed nothing"
    return text if len(text) <= QUOTED_CHARACTERS else f"{text[: QUOTED_CHARACTERS - 3]}..."
