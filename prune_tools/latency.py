"""How long networks take on this machine: one image at a time, in PyTorch, ONNX Runtime or OpenVINO.

Networks that are to be compared take turns, so that a machine that gets busier or hotter favours none.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import nn

from utils.errors import InputError

WARMUP_RUNS = 5
LEAST_RUNS, MOST_RUNS = 20, 200
SECONDS = 2.0  # time to spend on each network, within these numbers of runs

Call = Callable[[], object]


def _needed(name: str, runtime: str) -> ModuleType:
    """A library that a runtime needs. Raises InputError naming what to install."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"--runtime {runtime} needs the package {name}: pip install {name}") from error


def _torch(model: nn.Module, image: torch.Tensor) -> Call:
    """PyTorch, on the image's device."""

    def call() -> None:
        with torch.inference_mode():
            model(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)

    return call


def _onnxruntime(model: nn.Module, image: torch.Tensor) -> Call:
    """ONNX Runtime on the CPU."""
    onnxruntime: Any = _needed("onnxruntime", "onnxruntime")
    _needed("onnx", "onnxruntime")
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but the new one needs onnxscript
        file = str(Path(folder) / "model.onnx")
        torch.onnx.export(model.cpu(), (image.cpu(),), file, input_names=["images"], opset_version=17, dynamo=False)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    feed = {"images": image.cpu().numpy()}
    return lambda: session.run(None, feed)


def _openvino(model: nn.Module, image: torch.Tensor) -> Call:
    """OpenVINO on the CPU, set up for single images."""
    openvino: Any = _needed("openvino", "openvino")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the grids, which are constants here
        traced = torch.jit.trace(model.cpu(), image.cpu(), check_trace=False)
        converted = openvino.convert_model(traced, example_input=image.cpu(), input=list(image.shape))
    request = openvino.compile_model(converted, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    feed = {0: image.cpu().numpy()}
    return lambda: request.infer(feed)


RUNTIMES: dict[str, Callable[[nn.Module, torch.Tensor], Call]] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def prepare(model: nn.Module, image_size: int, runtime: str = "torch") -> Call:
    """A function without arguments that runs a fused copy of ``model`` on one square image of ``image_size`` pixels.

    Raises:
        InputError: the runtime is unknown or not installed.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"--runtime {runtime!r} is unknown: expected one of {', '.join(RUNTIMES)}")
    copy: Any = deepcopy(model).float().eval().requires_grad_(False)
    if hasattr(copy, "fuse"):
        copy.fuse()
    for module in copy.modules():
        if hasattr(module, "export"):
            module.export = True  # the head returns its boxes alone,
            module.inplace = False  # without writing into slices, which OpenVINO cannot convert
    device = next(copy.parameters()).device
    image = torch.zeros(1, 3, image_size, image_size, device=device)
    with torch.no_grad():
        copy(image)  # lets the head make its grids
    return RUNTIMES[runtime](copy, image)


def check_runtime(runtime: str) -> None:
    """Raise InputError unless ``runtime`` can be used here: before hours of work, not after."""
    prepare(nn.Sequential(nn.Conv2d(3, 4, 3)), 32, runtime)()


def time_calls(calls: Mapping[str, Call], seconds: float = SECONDS) -> dict[str, float]:
    """Median milliseconds of each call, the calls taking turns; ``seconds`` is what each gets at most, about."""

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
