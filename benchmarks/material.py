"""Material that benchmarks share: a small data set, networks with random weights, process settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import nn

from data.scripts.draw_mask_demo import Settings, draw
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from utils.checkpoint import save_checkpoint
from utils.commands.allocator import keep_freed_memory, set_thresholds
from utils.commands.options import build
from utils.dataset.items import LoadImagesAndLabels
from utils.log import warnings_only
from utils.storage.files import ROOT, read_yaml, write_yaml
from utils.training.hyperparameters import read_hyperparameters, scaled_hyperparameters
from utils.training.options import TrainOptions
from utils.training.state import Run, TrainingState, build_state

DRAWN_IMAGES = 136
CALIBRATION_IMAGES = 16  # from which the batch norms of ``responsive_checkpoint`` are estimated
HEAD_CONTRAST = 4.0  # factor on the head's weights: random ones give every anchor about the same confidence
PLAIN_THRESHOLDS = 2**25, 2**26  # of set_thresholds, in bytes: glibc's own after it has freed large blocks


def demo_names() -> list[str]:
    """Return the class names of the demo data."""
    return list(read_yaml(ROOT / "data/mask_demo.yaml")["names"].values())


def demo_data(folder: Path, images: int = DRAWN_IMAGES) -> str:
    """Draw demo pictures below ``folder`` and return their data YAML: val is all of them, train four of five."""
    drawn = draw(folder / "demo", Settings(images=images))
    description = {"path": str(drawn), "train": "images/train", "val": ["images/train", "images/val"]}
    write_yaml(folder / "demo.yaml", description | {"names": dict(enumerate(demo_names()))})
    return str(folder / "demo.yaml")


def random_checkpoint(folder: Path, name: str) -> Path:
    """Save ``models/<name>.yaml`` with random weights and batch-norm gammas in 0..1, for the demo data's classes."""
    torch.manual_seed(0)
    names = demo_names()
    model = DetectionModel(str(ROOT / f"models/{name}.yaml"), nc=len(names))
    model.names = names
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    file = folder / f"{name}.pt"
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None, "opt": {"sr": 0.001}}, file)
    return file


def responsive_checkpoint(folder: Path, name: str, split: str | list[str], imgsz: int) -> Path:
    """Save ``random_checkpoint`` with batch norms estimated on ``split``, so that detections depend on the image."""
    file = random_checkpoint(folder, name)
    model = load_checkpoint(file)["model"].float()
    dataset = LoadImagesAndLabels(split, imgsz)
    images = torch.stack([dataset[number][0] for number in range(min(CALIBRATION_IMAGES, len(dataset)))])
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.reset_running_stats()
    with torch.no_grad():
        model.train()(images.float() / 255)  # (B, 3, H, W) in 0..1
        for convolution in model.model[-1].m:
            convolution.weight *= HEAD_CONTRAST
    for norm in norms:
        norm.momentum = 0.03
    save_checkpoint({"epoch": -1, "model": model.eval(), "ema": None, "optimizer": None}, file)
    return file


def training_state(
    cfg: str,
    names: list[str],
    image_size: int,
    batch_size: int,
    batches: int,
    device: torch.device | None = None,
    amp: str = "off",
) -> TrainingState:
    """Return model, optimizer, moving average and loss for an epoch of ``batches``, built as train.py builds them."""
    torch.manual_seed(0)
    unscaled = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
    device = device or torch.device("cpu")
    model: Any = DetectionModel(cfg, nc=len(names)).to(device)
    hyp = scaled_hyperparameters(unscaled, model.model[-1].nl, len(names), image_size, 0.0)
    model.hyp, model.names, model.nc = hyp, names, len(names)
    options = build(TrainOptions, batch_size=batch_size, epochs=1, amp=amp)
    loader: Any = [None] * batches
    run = Run(options, {}, names, hyp, unscaled, image_size, grid_size=32, device=device)
    state = build_state(run, model, loader)
    state.warmup_batches = 0
    return state


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread in torch and OpenCV, so that CPU time is the work's own; log warnings only."""
    torch_threads = torch.get_num_threads()
    opencv_threads = cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        with warnings_only():
            yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(opencv_threads)


@contextmanager
def plain_memory() -> Iterator[None]:
    """Return freed memory to the system, as processes do by default."""
    set_thresholds(*PLAIN_THRESHOLDS)
    try:
        yield
    finally:
        keep_freed_memory()
