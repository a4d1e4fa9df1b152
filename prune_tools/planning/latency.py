"""Measure the time per image of networks on this machine, in PyTorch, ONNX Runtime or OpenVINO.

Networks are timed in alternation, so load and thermal drift affect all alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from models.backends.opening import open_runtime
from models.exporters.graph import ExportModel
from models.exporters.job import ExportJob, exporter
from models.formats import FORMATS
from models.metadata import Metadata
from utils.commands.packages import require
from utils.errors import InputError, short_repr

WARMUP_RUNS = 5
LEAST_RUNS, MOST_RUNS = 20, 200
SECONDS = 2.0  # for each network, within these numbers of runs
SHORT_SECONDS = 0.5  # where many networks are timed
RUNTIMES = {"torch": "-", "onnxruntime": "onnx", "openvino": "openvino"}  # and the export format that each runs

Call = Callable[[], object]


def prepare(model: nn.Module, image_size: int, runtime: str = "torch") -> Call:
    """A function without arguments that runs a fused copy of ``model`` on one square image of ``image_size`` pixels.

    Raises:
        InputError: the runtime is unknown or not installed.
    """
    check_runtime(runtime)
    copy: Any = deepcopy(model).float().eval().requires_grad_(False)
    copy.fuse()
    image = torch.zeros(1, 3, image_size, image_size, device=next(copy.parameters()).device)
    if runtime == "torch":
        return _torch(copy, image)
    return _exported(copy.cpu(), image.cpu(), RUNTIMES[runtime])


def _torch(model: nn.Module, image: torch.Tensor) -> Call:
    """Run in PyTorch, on the image's device."""

    @torch.inference_mode()
    def call() -> object:
        return model(image)[0]

    return _replayed(call, image.device) if image.is_cuda else call


def _replayed(call: Call, device: torch.device) -> Call:
    """``call`` as a CUDA graph, so that the GPU's time is measured without the launches of its kernels from Python.

    The launches of a small network take longer than its kernels, so all widths would seem equally fast. Runtimes for
    GPUs do not launch from Python either.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # allocations and choices of a first call must not be recorded
        for _ in range(WARMUP_RUNS):
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()

    def replay(recorded: Call = call) -> object:  # the graph does not keep the weights that it reads, ``call`` does
        graph.replay()
        torch.cuda.synchronize(device)
        return output

    return replay


def _exported(model: Any, image: torch.Tensor, argument: str) -> Call:
    """Run an export in the runtime of its format, on the CPU; ``argument`` is the format of export.py's --include."""
    size = image.shape[2], image.shape[3]
    metadata = Metadata(names=[str(index) for index in range(model.model[-1].nc)], stride=1, imgsz=list(size))
    suffix = next(form.suffix for form in FORMATS if form.argument == argument)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        exporter(argument)(ExportJob(ExportModel(model, size), image, path, metadata))
        runtime = open_runtime(path, torch.device("cpu"))
    return lambda: runtime(image)


def check_runtime(runtime: str) -> None:
    """Raise InputError unless ``runtime`` is installed, so that a run stops at its start and not after hours."""
    if runtime not in RUNTIMES:
        raise InputError(f"--runtime {short_repr(runtime)} is unknown: expected one of {', '.join(RUNTIMES)}")
    needed = next(form.packages for form in FORMATS if form.argument == RUNTIMES[runtime])
    for module, package in needed:
        require(module, f"--runtime {runtime}", package)


def time_calls(calls: Mapping[str, Call], seconds: float = SECONDS) -> dict[str, float]:
    """Median milliseconds of each call, called in alternation for about ``seconds`` each at most."""

    def milliseconds(call: Call) -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    slowest = 0.0
    for _ in range(WARMUP_RUNS):
        slowest = max(milliseconds(call) for call in calls.values())
    runs = min(MOST_RUNS, max(LEAST_RUNS, int(1e3 * seconds / max(slowest, 1e-3))))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            samples[name].append(milliseconds(call))
    return {name: statistics.median(values) for name, values in samples.items()}
