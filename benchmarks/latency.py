#!/usr/bin/env python3
"""Latency of detectors in the runtimes of this machine: checkpoints x runtimes x sizes x batches x threads.

    python -m benchmarks.latency --weights base.pt pruned_model.pt --runtimes torch onnxruntime openvino --imgsz 320
    python -m benchmarks.latency --weights best.pt --runtimes openvino openvino-int8 --data mask.yaml   # and their mAP
    python -m benchmarks.latency --weights best.pt best.engine --runtimes torch --device 0 --half            # on a GPU

Calls of the same size, batch and number of threads are timed in turns, so that load affects all alike. A combination
that is not possible on this machine is listed with the reason.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import torch

import export
import val
from benchmarks.figures import in_turns
from benchmarks.latency_table import Cell, as_table, save
from models.backends import DetectMultiBackend
from models.exporters.verify import example_image
from models.formats import PYTORCH, format_of
from utils.checks import check_img_size
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.device import select_device, time_sync
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER, colorstr, warnings_only
from utils.storage.files import ROOT, increment_path

Scores = dict[tuple[str, str, int], tuple[float, float]]  # (weights, runtime, size) -> mAP50, mAP50-95
# What a checkpoint is exported to: the word after --include ("-": not exported), and whether in INT8
RUNTIMES = {
    "torch": ("-", False), "torchscript": ("torchscript", False), "onnxruntime": ("onnx", False),
    "onnxruntime-int8": ("onnx", True), "opencv": ("onnx", False), "openvino": ("openvino", False),
    "openvino-int8": ("openvino", True), "ncnn": ("ncnn", False), "tflite": ("tflite", False),
    "coreml": ("coreml", False), "tensorrt": ("engine", False),
}  # fmt: skip
STRIDE = 32  # of image sides, in pixels
PAUSE = 0.005  # seconds between calls, in which the threads of the previous runtime stop waiting for work
MEMORY_PROBE = """
import sys, resource
import torch
from benchmarks.latency import backend_for, runner_of
path, runtime, size, batch, threads, device, half = sys.argv[1:]
torch.set_num_threads(int(threads))
run = runner_of(backend_for(path, runtime, torch.device(device), half == "half"))
for _ in range(3):
    run(torch.rand(int(batch), 3, int(size), int(size)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
"""


@dataclass
class LatencyOptions:
    """Options of this benchmark."""

    weights: list[str] = option(
        [], "checkpoints, or files made by export.py, which run in their own runtime", nargs="+"
    )
    runtimes: list[str] = option(
        ["torch", "onnxruntime", "openvino"], "for checkpoints: " + " ".join(RUNTIMES), nargs="+"
    )
    imgsz: list[int] = option([320], "sides of the square images in pixels", "--img", "--img-size", nargs="+")
    batch_size: list[int] = option([1], "images per call", nargs="+")
    threads: list[int] = option([2], "threads of the runtime", nargs="+")
    repetitions: int = option(50, "calls that are timed")
    device: str = option("cpu", "cpu, or cuda device number such as 0: for torch, torchscript, onnxruntime, tensorrt")
    half: bool = option(False, "compute in FP16: torch on a GPU, and exports (made with --half)")
    data: str = option("", "data set YAML: mAP of each file, and the images that INT8 is calibrated on")
    memory: bool = option(False, "also peak memory, of a separate process for each line")
    project: str = option(str(ROOT / "runs/latency"), "save to project/name")
    name: str = option("exp", "save to project/name")

    def __post_init__(self) -> None:
        """Check the options before anything is measured."""
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
        self.imgsz = list(dict.fromkeys(check_img_size(list(self.imgsz), STRIDE)))
        if self.repetitions < 1:
            raise InputError(f"--repetitions must be at least 1, got {self.repetitions}")


class Exports:
    """Exports of the checkpoints, each made once, in a temporary folder."""

    def __init__(self, folder: Path, options: LatencyOptions) -> None:
        self.folder, self.options = folder, options
        self.made: dict[tuple, Path | InputError] = {}

    def get(self, weights: str, runtime: str, size: int, batch: int) -> Path:
        """Return the file that ``runtime`` runs. Raises InputError if it cannot be made."""
        argument, int8 = RUNTIMES.get(runtime, ("-", False))
        if argument == "-":
            return Path(weights)
        key = (weights, argument, int8, size, batch)
        if key not in self.made:
            try:
                self.made[key] = self._export(*key)
            except InputError as error:
                self.made[key] = error
        result = self.made[key]
        if isinstance(result, InputError):
            raise result
        return result

    def _export(self, weights: str, argument: str, int8: bool, size: int, batch: int) -> Path:
        folder = self.folder / str(len(self.made))
        folder.mkdir()
        copy = folder / Path(weights).name
        shutil.copyfile(weights, copy)
        options = self.options
        keywords: dict[str, Any] = {}
        if options.data:
            keywords["data"] = options.data
        if argument == "engine":
            keywords["device"] = options.device
        (path,) = export.run(
            weights=str(copy),
            include=[argument],
            imgsz=size,
            batch_size=batch,
            int8=int8,
            half=options.half,
            **keywords,
        )
        return path


def backend_for(path: str | Path, runtime: str, device: torch.device, half: bool = False) -> DetectMultiBackend:
    """Return the backend in which detect.py runs a file. Raises InputError if the device cannot run it."""
    cv2.setNumThreads(torch.get_num_threads())
    backend = DetectMultiBackend(path, device=device, dnn=runtime == "opencv", fp16=half)
    if backend.device.type != device.type:
        raise InputError(f"{runtime} does not run on --device {device} here, but on the CPU: leave out --device")
    return backend


def runner_of(backend: DetectMultiBackend) -> Callable[[torch.Tensor], object]:
    """Return a function that runs images (B, 3, H, W) in 0..1 and waits until the result is complete."""
    dtype = torch.half if backend.fp16 else torch.float

    def run(images: torch.Tensor) -> object:
        with torch.inference_mode():
            output = backend(images.to(backend.device, dtype))[0]
        time_sync()
        return output

    return run


def measure(options: LatencyOptions) -> list[Cell]:
    """Return all lines of the table."""
    device = select_device(options.device)
    torch_threads = torch.get_num_threads()
    opencv_threads = cv2.getNumThreads()
    cells: list[Cell] = []
    try:
        with TemporaryDirectory() as name, warnings_only():
            exports = Exports(Path(name), options)
            scores: Scores = {}
            for size, batch, threads in product(options.imgsz, options.batch_size, options.threads):
                torch.set_num_threads(threads)
                group = [Cell(weights, runtime, size, batch, threads) for weights, runtime in _lines(options)]
                _measure_group(group, exports, options, device, scores)
                cells += group
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(opencv_threads)
    return cells


def _lines(options: LatencyOptions) -> Iterator[tuple[str, str]]:
    """Yield weights and runtime of each line; an exported file runs in the runtime of its format."""
    for weights in options.weights:
        file_format = format_of(weights)
        if file_format is PYTORCH:
            yield from ((weights, runtime) for runtime in options.runtimes)
        else:
            yield weights, next(name for name, (argument, _) in RUNTIMES.items() if argument == file_format.argument)


def _measure_group(
    cells: list[Cell], exports: Exports, options: LatencyOptions, device: torch.device, scores: Scores
) -> None:
    """Fill in the figures of cells of one size, batch and number of threads."""
    size, batch, threads = cells[0].imgsz, cells[0].batch, cells[0].threads
    images = example_image(None, (size, size)).expand(batch, -1, -1, -1).contiguous().to(device)
    calls: dict[str, Callable[[], object]] = {}
    for index, cell in enumerate(cells):
        try:
            checkpoint = format_of(cell.weights) is PYTORCH
            path = exports.get(cell.weights, cell.runtime, size, batch) if checkpoint else Path(cell.weights)
            run = _prepare(cell, path, images, options, device, scores)
        except InputError as error:
            cell.note = str(error)
            continue
        except (RuntimeError, OSError) as error:  # raised by a library, for example when memory is too small
            cell.note = f"failed: {' '.join(str(error).split())[:200]}"
            continue
        torch.set_num_threads(threads)  # validation may have changed it
        calls[f"pause {index}"] = lambda: time.sleep(PAUSE)
        calls[str(index)] = partial(run, images)
    _fill_in_times(cells, in_turns(calls, options.repetitions))


def _prepare(
    cell: Cell, path: Path, images: torch.Tensor, options: LatencyOptions, device: torch.device, scores: Scores
) -> Callable[[torch.Tensor], object]:
    """Return the call to be timed, after a first run, and fill in all figures but the times.

    Raises:
        InputError: the file cannot run here.
    """
    backend = backend_for(path, cell.runtime, device, options.half)
    if backend.runtime and backend.runtime.metadata.int8 and not cell.runtime.endswith("-int8"):
        cell.runtime += "-int8"
    if backend.fixed_size is None and cell.imgsz % backend.stride:
        raise InputError(f"{path} takes multiples of its stride of {backend.stride} pixels, got {cell.imgsz}")
    run = runner_of(backend)
    run(images)
    cell.file_mib = _mebibytes(path)
    if options.memory:
        cell.memory_mib = _peak_memory(path, cell, device, options.half)
    if options.data and backend.nms:
        cell.note = "no mAP: it applies NMS itself; val.py scores it at its --conf-thres and --iou-thres"
    elif options.data:
        key = (cell.weights, cell.runtime, cell.imgsz)
        if key not in scores:
            scores[key] = _accuracy(path, cell, options)
        cell.map50, cell.map = scores[key]
    return run


def _fill_in_times(cells: list[Cell], seconds: Mapping[str, Sequence[float]]) -> None:
    """Fill in the times from ``seconds``, whose keys are the indices of the cells."""
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


def _peak_memory(path: Path, cell: Cell, device: torch.device, half: bool) -> float:
    """Return the peak main memory, in MiB, of a process that only runs this file."""
    words = [str(path.resolve()), cell.runtime, str(cell.imgsz), str(cell.batch), str(cell.threads)]
    words += [str(device), "half" if half else "whole"]
    command = [sys.executable, "-c", MEMORY_PROBE, *words]
    probe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if probe.returncode:
        reason = (probe.stderr.strip().splitlines() or [f"exit status {probe.returncode}"])[-1]
        raise InputError(f"{path} failed in a separate process: {reason}")
    return float(probe.stdout.split()[-1])


def _accuracy(path: Path, cell: Cell, options: LatencyOptions) -> tuple[float, float]:
    """Return mAP at IoU 0.5 and at 0.5:0.95, measured by val.py."""
    with TemporaryDirectory() as folder:
        results, _, _ = val.run(
            options.data,
            str(path),
            imgsz=cell.imgsz,
            device=options.device,
            half=options.half,
            workers=0,
            plots=False,
            save_dir=Path(folder),
            dnn=cell.runtime == "opencv",
        )
    return float(results[2]), float(results[3])


def main(options: LatencyOptions) -> list[Cell]:
    """Measure, show and save."""
    folder = increment_path(Path(options.project) / options.name, mkdir=True)
    LOGGER.info(
        f"Timing {options.repetitions} calls of each model in each runtime, in turns; "
        "whatever else runs meanwhile makes them longer"
    )
    cells = measure(options)
    save(cells, folder)
    LOGGER.info("\n" + as_table(cells))
    LOGGER.info(f"Results saved to {colorstr('bold', str(folder.resolve()))}: latency.md, latency.csv, latency.png")
    return cells


if __name__ == "__main__":
    run_command(lambda: main(parse(LatencyOptions, "Measure the latency of detectors on this machine.")))
