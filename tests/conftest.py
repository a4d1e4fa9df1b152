"""Fixtures of several tests: a small drawn data set, and the folder of reference material where there is one.

The tests compute on the CPU on every machine, so that they mean the same everywhere: a GPU is hidden from them and from
the commands that they start. Those of tests/gpu are about GPUs; tests/test_gpu.py runs them where there is one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models.yolo import DetectionModel
from prune_tools.sparsity.gammas import ChannelGammas
from tests.colour_detector import save_colour_detector
from tests.pruning_networks import random_gammas, trainable_network
from tests.slow import is_slow
from utils.downloads import OFFLINE_VARIABLE
from utils.log import LOGGER
from utils.storage.files import ROOT, read_yaml, write_yaml

GPU_OPTION = "--gpu"
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
HIDDEN_GPUS = "VISIBLE_BEFORE_TESTS"  # keeps what that was, for tests/test_gpu.py and in processes of xdist
ALL_GPUS = "all"
TINY_SIZES = ((128, 128), (96, 128), (128, 96))  # height, width
TINY_CFG = Path(__file__).with_name("tiny_model.yaml")
TINY_MODEL = read_yaml(TINY_CFG)
WIDE_MODEL = {**TINY_MODEL, "width_multiple": 2.0}
TINY_COLOURS = ((40, 60, 220), (220, 120, 40))  # BGR of class 0, a disc, and class 1, a square


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that lets tests see a GPU."""
    parser.addoption(GPU_OPTION, action="store_true", help="do not hide the GPU; for tests/gpu, which need one")


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU, before torch looks for one; in each process of xdist."""
    if not config.getoption(GPU_OPTION):
        os.environ.setdefault(HIDDEN_GPUS, os.environ.get(VISIBLE_GPUS, ALL_GPUS))
        os.environ[VISIBLE_GPUS] = ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/gpu to those who ask for it."""
    return True if collection_path.name == "gpu" and not config.getoption(GPU_OPTION) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long, so that ``-m "not slow"`` leaves it out."""
    for item in items:
        if isinstance(item, pytest.Function):
            fixtures = [
                each.func for definitions in item._fixtureinfo.name2fixturedefs.values() for each in definitions
            ]
            if is_slow([item.function, *fixtures]):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute on one thread, here and in started commands: small tensors gain nothing from more, and wait for them."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_drawing_processes() -> Iterator[None]:
    """Draw in the process of the test, as where there is one core: further processes load longer than they draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.drawing.background.usable_cores", lambda: 1)
        yield


@pytest.fixture
def asked_pictures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what is to be drawn beside the work, which is not done: it takes most of the time of a short training."""
    asked: list[Any] = []
    monkeypatch.setattr("utils.drawing.background.attempt", lambda picture: asked.append(picture) or "")
    return asked


@pytest.fixture(scope="module")
def quick_timing() -> Iterator[None]:
    """Time each network by a single call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prune_tools.planning.latency.MOST_RUNS", 1)
        patch.setattr("prune_tools.planning.latency.WARMUP_RUNS", 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_downloads() -> None:
    """Keep the tests, and the commands that they start, off the network; those of downloads allow it themselves."""
    os.environ[OFFLINE_VARIABLE] = "true"


@pytest.fixture(autouse=True)
def untouched_logger() -> Iterator[None]:
    """Undo what a command's logging set-up changes, so that the next test can listen."""
    before = LOGGER.propagate, LOGGER.level, list(LOGGER.handlers)
    yield
    LOGGER.propagate, LOGGER.handlers = before[0], before[2]
    LOGGER.setLevel(before[1])


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Return the folder of reference material beside the checkout; skip the test where there is none."""
    folder = ROOT.parent / "shared"
    if not (folder / "conformance").is_dir():
        pytest.skip("no reference material beside this checkout")
    return folder


def draw_tiny_picture(rng: np.random.Generator, index: int) -> tuple[np.ndarray, str]:
    """Return a picture with one to three shapes, and its label file's text; every eighth picture is empty."""
    height, width = TINY_SIZES[index % len(TINY_SIZES)]
    picture = rng.integers(90, 170, (height, width, 3), dtype=np.uint8)
    lines = ""
    for slot in range(0 if index % 8 == 7 else int(rng.integers(1, 4))):
        kind = (index + slot) % 2
        radius = int(rng.integers(9, 20))
        x = int(rng.integers(radius, width - radius))
        y = int(rng.integers(radius, height - radius))
        if kind == 0:
            cv2.circle(picture, (x, y), radius, TINY_COLOURS[0], -1)
        else:
            cv2.rectangle(picture, (x - radius, y - radius), (x + radius, y + radius), TINY_COLOURS[1], -1)
        side = 2 * radius + 1
        lines += f"{kind} {(x + 0.5) / width:.6f} {(y + 0.5) / height:.6f} {side / width:.6f} {side / height:.6f}\n"
    return picture, lines


def draw_tiny_dataset(folder: Path, train: int = 12, val: int = 4) -> Path:
    """Draw a data set of discs and squares into ``folder`` and return its YAML file."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            picture, lines = draw_tiny_picture(rng, index)
            cv2.imwrite(str(folder / "images" / split / f"{index:03d}.jpg"), picture)
            (folder / "labels" / split / f"{index:03d}.txt").write_text(lines)
    description = {
        "path": str(folder),
        "train": "images/train",
        "val": "images/val",
        "nc": 2,
        "names": ["disc", "square"],
    }
    write_yaml(folder / "tiny.yaml", description)
    return folder / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_cfg() -> Path:
    """Return the YAML of a detector of 3 levels with 3442 parameters."""
    return TINY_CFG


@pytest.fixture(scope="session")
def wide_cfg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the YAML of the same detector with four times as many channels, 32 and 64: there is something to prune."""
    file = tmp_path_factory.mktemp("model") / "wide_model.yaml"
    write_yaml(file, WIDE_MODEL)
    return file


@pytest.fixture(scope="module")
def network() -> DetectionModel:
    """Return a small detector, trainable; the gammas of a test change it."""
    return trainable_network()


@pytest.fixture
def gammas(network: DetectionModel) -> ChannelGammas:
    """Return all prunable channels of ``network``, at random gammas."""
    return random_gammas(network)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint, not stripped, of a detector that finds discs and squares. Tests must not change it."""
    return save_colour_detector(tmp_path_factory.mktemp("weights") / "colour.pt")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return what is logged, messages of level INFO included."""
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    return caplog


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the YAML of 12 + 4 pictures of 96 to 128 pixels with two classes. Tests must not change its files."""
    return draw_tiny_dataset(tmp_path_factory.mktemp("tiny"))
