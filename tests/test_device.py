"""Device names, the start line and seeds. No GPU is needed: machines with one are simulated."""

from __future__ import annotations

import os
import platform
import random
import types

import numpy as np
import pytest
import torch

from utils.device import device_line, seed_everything, select_device, time_sync
from utils.errors import InputError
from utils.version import __version__


@pytest.fixture
def two_gpus(monkeypatch) -> list[int]:
    """A machine with two GPUs; the list collects what was made the current one."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    """A machine without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_gpu(no_gpu):
    before = dict(os.environ)
    for name in ("", "cpu", "CPU", None, torch.device("cpu")):
        assert select_device(name) == torch.device("cpu")
    with pytest.raises(InputError, match=r"--device 0 is not available.*cpu"):
        select_device("0")
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("name", "index"), [("", 0), ("0", 0), ("1", 1), (1, 1), ("cuda", 0), ("cuda:1", 1), (torch.device("cuda:1"), 1)]
)
def test_with_two_gpus(two_gpus, name, index):
    assert select_device(name) == torch.device("cuda", index)
    assert two_gpus == [index]


def test_cpu_on_a_machine_with_gpus(two_gpus):
    assert select_device("cpu", batch_size=16) == torch.device("cpu")
    assert two_gpus == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("2", "0 to 1"), ("0,1", "several devices"), ("gpu", "unknown --device gpu"), ("-1", "unknown")],
)
def test_impossible_devices(two_gpus, name, expected):
    with pytest.raises(InputError, match=expected):
        select_device(name)


def test_mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="mps is not available"):
        select_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert select_device("mps").type == "mps"


def test_device_line(monkeypatch):
    line = device_line(torch.device("cpu"))
    assert line.startswith(f"yolov5-prune {__version__}, Python-{platform.python_version()}, ")
    assert f"torch-{torch.__version__}, CPU" in line
    card = types.SimpleNamespace(name="Some GPU", total_memory=8 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert device_line(torch.device("cuda:1")).endswith("CUDA:1 (Some GPU, 8192MiB)")


def test_time_runs_forward():
    first = time_sync()
    assert time_sync() >= first


def test_seeds():
    def draw(seed: int) -> tuple[float, ...]:
        seed_everything(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    assert draw(3) == draw(3)
    assert all(first != second for first, second in zip(draw(3), draw(4), strict=True))
