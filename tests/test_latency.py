"""Measuring time: turns, medians, and the three runtimes."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch

from prune_tools.planning import latency
from tests.exports.helpers import skip_where_openvino_is_misled
from tests.pruning_networks import thin
from utils.errors import InputError

PACKAGES = {"torch": ["torch"], "onnxruntime": ["onnx", "onnxruntime"], "openvino": ["onnx", "openvino"]}


def test_networks_take_turns(monkeypatch):
    clock, log = [0.0], []
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])

    def call(name: str, seconds: float) -> latency.Call:
        def run() -> None:
            log.append(name)
            clock[0] += seconds * (100 if len(log) == 21 else 1)  # one hiccup

        return run

    times = latency.time_calls({"slow": call("slow", 0.03), "fast": call("fast", 0.01)}, seconds=1)
    assert times == {"slow": pytest.approx(30), "fast": pytest.approx(10)}
    assert log == ["slow", "fast"] * (len(log) // 2)
    assert latency.LEAST_RUNS <= len(log) // 2 - latency.WARMUP_RUNS <= 1 / 0.03


@pytest.mark.slow
@pytest.mark.parametrize("runtime", sorted(latency.RUNTIMES))
def test_every_runtime_computes_the_boxes(runtime):
    for package in PACKAGES[runtime]:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if runtime == "openvino":
        skip_where_openvino_is_misled()
    model = thin("yolov5n").float()
    names = set(model.state_dict())
    result = latency.prepare(model, 64, runtime)()
    assert set(model.state_dict()) == names and not model.model[-1].export  # a copy was fused
    with torch.no_grad():
        expected = model.eval()(torch.zeros(1, 3, 64, 64))[0]
    assert torch.allclose(result, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_missing_runtime_is_named(monkeypatch, runtime):
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    with pytest.raises(InputError, match=rf"--runtime {runtime} needs the package onnx: pip install onnx"):
        latency.check_runtime(runtime)


def test_unknown_runtime():
    with pytest.raises(InputError, match="'tensorrt' is unknown: expected one of torch, onnxruntime, openvino"):
        latency.check_runtime("tensorrt")
