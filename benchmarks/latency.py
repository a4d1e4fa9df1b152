#!/usr/bin/env python3
"""How long detectors take in the runtimes of this machine: checkpoints x runtimes x sizes x batches x threads.

python -m benchmarks.latency --weights base.pt pruned_model.pt --runtimes torch onnxruntime openvino --imgsz 320
python -m benchmarks.latency --weights best.pt --runtimes openvino openvino-int8 --data mask.yaml   # and their mAP
Of all that has the same size, batch and number of threads the calls take turns, so that a busy machine favours none.
A combination that is not possible here is listed with the reason.
"""

from __future__ import annotations

import csv
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import in_turns
from models.formats import PYTORCH, format_of
from utils.cli import run_command
from utils.config import option, parse
from utils.errors import InputError, MissingFileError
from utils.files import ROOT, atomic_path, increment_path
from utils.log import LOGGER, colorstr

# What a checkpoint is exported to: its word after --include, and whether in INT8
RUNTIMES = {
    "torch": ("-", False), "torchscript": ("torchscript", False), "onnxruntime": ("onnx", False),
    "onnxruntime-int8": ("onnx", True), "opencv": ("onnx", False), "openvino": ("openvino", False),
    "openvino-int8": ("openvino", True), "ncnn": ("ncnn", False), "tflite": ("tflite", False),
    "coreml": ("coreml", False),
}  # fmt: skip
PAUSE = 0.005  # seconds between calls: the threads of the runtime before stop waiting for more work
MEMORY_PROBE = """
import sys, resource
import torch
from benchmarks.latency import backend_for
torch.set_num_threads(int(sys.argv[5]))
run = backend_for(sys.argv[1], sys.argv[2])
for _ in range(3):
    run(torch.rand(int(sys.argv[4]), 3, int(sys.argv[3]), int(sys.argv[3])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
"""


@dataclass
class LatencyOptions:
    """Options of this benchmark."""

    weights: list[str] = option([], "checkpoints, or files made by export.py, which run in their own runtime",
                                nargs="+")  # fmt: skip
    runtimes: list[str] = option(
        ["torch", "onnxruntime", "openvino"], "for checkpoints: " + " ".join(RUNTIMES), nargs="+"
    )
    imgsz: list[int] = option([320], "sides of the square images in pixels", "--img", "--img-size", nargs="+")
    batch_size: list[int] = option([1], "images per call", nargs="+")
    threads: list[int] = option([2], "threads of the runtime", nargs="+")
    repetitions: int = option(50, "calls that are timed")
    data: str = option("", "data set YAML: mAP of each file, and the images that INT8 is calibrated on")
    memory: bool = option(False, "peak memory too, of a process of its own for each line")
    project: str = option(str(ROOT / "runs/latency"), "save to project/name")
    name: str = option("exp", "save to project/name")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured, before anything is."""
        if not self.weights:
            raise InputError("--weights is missing: name checkpoints or exported files")
        for file in self.weights:
            if not Path(file).exists():
                raise MissingFileError(f"no such file: {file}")
            format_of(file)
        unknown = [name for name in self.runtimes if name not in RUNTIMES]
        if unknown:
            raise InputError(f"--runtimes {unknown[0]} is unknown: expected some of {' '.join(RUNTIMES)}")
        for flag in ("imgsz", "batch_size", "threads"):
            if min(getattr(self, flag)) < 1:
                raise InputError(f"--{flag.replace('_', '-')} takes positive numbers, got {getattr(self, flag)}")
        if self.repetitions < 1:
            raise InputError(f"--repetitions must be at least 1, got {self.repetitions}")


@dataclass
class Cell:
    """One line of the table; figures are None where there are none, and ``note`` says why.

    Attributes:
        imgsz: side in pixels. median, low, high: of milliseconds per image, and its quartiles. ratio: median ratio of
            the time to that of the first line of the same size, batch and threads, turn by turn. file_mib: size of
            what is deployed. memory_mib: peak of a process that runs it, libraries included. map50, map: on the data.
    """

    weights: str
    runtime: str
    imgsz: int
    batch: int
    threads: int
    median: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    file_mib: float | None = None
    memory_mib: float | None = None
    map50: float | None = None
    map: float | None = None
    note: str = ""


class Exports:
    """The exports of the checkpoints, each made once, in a folder that goes away."""

    def __init__(self, folder: Path, data: str) -> None:
        self.folder, self.data = folder, data
        self.made: dict[tuple, Path | InputError] = {}

    def get(self, weights: str, runtime: str, size: int, batch: int) -> Path:
        """The file that ``runtime`` runs. Raises InputError if it cannot be made."""
        argument, int8 = RUNTIMES.get(runtime, ("-", False))
        if argument == "-":
            return Path(weights)
        key = (weights, argument, int8, size, batch)
        if key not in self.made:
            try:
                self.made[key] = self._export(*key)
            except InputError as error:
                self.made[key] = error
        made = self.made[key]
        if isinstance(made, InputError):
            raise made
        return made

    def _export(self, weights: str, argument: str, int8: bool, size: int, batch: int) -> Path:
        import export

        folder = self.folder / str(len(self.made))
        folder.mkdir()
        copy = folder / Path(weights).name
        shutil.copyfile(weights, copy)
        given = {"data": self.data} if self.data else {}
        (path,) = export.run(weights=str(copy), include=[argument], imgsz=size, batch_size=batch, int8=int8, **given)
        return path


def backend_for(path: str | Path, runtime: str) -> Callable[[Any], Any]:
    """What runs a file, as detect.py does, on the CPU."""
    import cv2
    import torch

    from models.backends import DetectMultiBackend

    cv2.setNumThreads(torch.get_num_threads())
    backend = DetectMultiBackend(path, dnn=runtime == "opencv")

    def run(images: Any) -> Any:
        with torch.inference_mode():
            return backend(images)[0]

    return run


def measure(options: LatencyOptions) -> list[Cell]:
    """All lines of the table."""
    import cv2
    import torch

    from prune_tools.pruning import warnings_only

    before = torch.get_num_threads(), cv2.getNumThreads()
    cells: list[Cell] = []
    try:
        with TemporaryDirectory() as name, warnings_only():
            exports = Exports(Path(name), options.data)
            scores: dict[tuple, Any] = {}
            for size, batch, threads in product(options.imgsz, options.batch_size, options.threads):
                torch.set_num_threads(threads)
                group = [Cell(weights, runtime, size, batch, threads) for weights, runtime in _lines(options)]
                _measure_group(group, exports, options, scores)
                cells += group
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
    return cells


def _lines(options: LatencyOptions) -> Iterator[tuple[str, str]]:
    """Weights and runtime of each line; an exported file has a runtime of its own."""
    for weights in options.weights:
        kind = format_of(weights)
        if kind is PYTORCH:
            yield from ((weights, runtime) for runtime in options.runtimes)
        else:
            yield weights, next(name for name, (argument, _) in RUNTIMES.items() if argument == kind.argument)


def _measure_group(cells: list[Cell], exports: Exports, options: LatencyOptions, scores: dict[tuple, Any]) -> None:
    """Fill in the figures of cells of one size, batch and number of threads."""
    import torch

    from models.exporters.verify import example_image

    size, batch, threads = cells[0].imgsz, cells[0].batch, cells[0].threads
    images = example_image(None, (size, size)).expand(batch, -1, -1, -1).contiguous()
    calls: dict[str, Callable[[], object]] = {}
    for index, cell in enumerate(cells):
        try:
            checkpoint = format_of(cell.weights) is PYTORCH
            path = exports.get(cell.weights, cell.runtime, size, batch) if checkpoint else Path(cell.weights)
            run = backend_for(path, cell.runtime)
            run(images)
            cell.file_mib = _mebibytes(path)
            if options.memory:
                cell.memory_mib = _peak_memory(path, cell)
            if options.data:
                key = (cell.weights, cell.runtime, size)
                scores[key] = scores.get(key) or _accuracy(path, cell, options.data)
                cell.map50, cell.map = scores[key]
        except InputError as error:
            cell.note = str(error)
            continue
        torch.set_num_threads(threads)  # validation may have changed it
        calls[f"pause {index}"] = lambda: time.sleep(PAUSE)
        calls[str(index)] = lambda run=run: run(images)  # type: ignore[misc]
    _fill_in_times(cells, in_turns(calls, options.repetitions))


def _fill_in_times(cells: list[Cell], seconds: Mapping[str, Sequence[float]]) -> None:
    """The figures of ``seconds``, whose names are the indices of the cells."""
    first: Sequence[float] | None = None
    for index, cell in enumerate(cells):
        if str(index) in seconds:
            times = seconds[str(index)]
            first = first or times
            per_image = [1e3 * value / cell.batch for value in times]
            quartiles = statistics.quantiles(per_image, n=4) if len(per_image) > 1 else per_image * 3
            cell.low, cell.median, cell.high = quartiles[0], statistics.median(per_image), quartiles[2]
            cell.ratio = statistics.median(own / other for own, other in zip(times, first, strict=True))


def _mebibytes(path: Path) -> float:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**20


def _peak_memory(path: Path, cell: Cell) -> float:
    """MiB that a process needs at most that does nothing but run this file."""
    words = [str(path.resolve()), cell.runtime, str(cell.imgsz), str(cell.batch), str(cell.threads)]
    command = [sys.executable, "-c", MEMORY_PROBE, *words]
    probe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if probe.returncode:
        raise InputError(f"{path} failed in a process of its own: {probe.stderr.strip().splitlines()[-1]}")
    return float(probe.stdout.split()[-1])


def _accuracy(path: Path, cell: Cell, data: str) -> tuple[float, float]:
    """mAP at IoU 0.5 and at 0.5:0.95, by val.py."""
    import val

    with TemporaryDirectory() as folder:
        results, _, _ = val.run(
            data, str(path), imgsz=cell.imgsz, device="cpu", workers=0, plots=False, save_dir=Path(folder),
            dnn=cell.runtime == "opencv",
        )  # fmt: skip
    return float(results[2]), float(results[3])


def as_table(cells: Sequence[Cell]) -> str:
    """The cells as a Markdown table; a reason stands where there are no figures."""
    lines = [
        "| weights | runtime | imgsz | batch | threads | ms/image (quartiles) | ratio | file MiB | memory MiB | mAP@.5 "
        "| mAP@.5:.95 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for cell in cells:
        start = f"| {Path(cell.weights).name} | {cell.runtime} | {cell.imgsz} | {cell.batch} | {cell.threads} |"
        if cell.median is None:
            lines.append(f"{start} {cell.note.replace('|', '/')} | | | | | |")
            continue
        figures = [f"{cell.median:.2f} ({cell.low:.2f}-{cell.high:.2f})", _text(cell.ratio, 2), _text(cell.file_mib, 1)]
        figures += [_text(cell.memory_mib, 0), _text(cell.map50, 4), _text(cell.map, 4)]
        lines.append(f"{start} {' | '.join(figures)} |")
    return "\n".join(lines)


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def save(cells: Sequence[Cell], folder: Path) -> None:
    """Write latency.md, latency.csv and latency.png."""
    from utils.charts import new_figure, save_figure

    with atomic_path(folder / "latency.md") as draft:
        draft.write_text(as_table(cells) + "\n", encoding="utf-8")
    with atomic_path(folder / "latency.csv") as draft, open(draft, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [entry.name for entry in fields(Cell)])
        writer.writeheader()
        writer.writerows(asdict(cell) for cell in cells)
    timed = [cell for cell in cells if cell.median is not None]
    if timed:
        figure = new_figure(9, 1 + 0.3 * len(timed))
        axes = figure.add_subplot()
        labels = [f"{Path(c.weights).name}, {c.runtime}, {c.imgsz} px, {c.batch} x, {c.threads} threads" for c in timed]
        medians = [cell.median or 0.0 for cell in timed]
        spread = [[(c.median or 0) - (c.low or 0) for c in timed], [(c.high or 0) - (c.median or 0) for c in timed]]
        axes.barh(range(len(timed)), medians, xerr=spread)
        axes.set_yticks(range(len(timed)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("ms per image, median and quartiles")
        save_figure(figure, folder / "latency.png", dpi=150)


def main(options: LatencyOptions) -> list[Cell]:
    """Measure, show and save."""
    folder = increment_path(Path(options.project) / options.name, mkdir=True)
    cells = measure(options)
    save(cells, folder)
    LOGGER.info("\n" + as_table(cells))
    LOGGER.info(f"Results saved to {colorstr('bold', str(folder.resolve()))}: latency.md, latency.csv, latency.png")
    return cells


if __name__ == "__main__":
    run_command(lambda: main(parse(LatencyOptions, "Measure how long detectors take in the runtimes of this machine.")))
