"""What several benchmarks measure on: a small data set, and networks with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.commands.allocator import keep_freed_memory, set_thresholds
from utils.commands.options import build
from utils.storage.files import ROOT, read_yaml, write_yaml
from utils.training.hyperparameters import read_hyperparameters, scale_gains
from utils.training.options import TrainOptions

IMAGES = 136  # drawn ones
HEAD_CONTRAST = 4.0  # by which the differences of confidence are enlarged
PLAIN_THRESHOLDS = 2**25, 2**26  # of set_thresholds: where glibc ends by itself once it has seen large blocks


def demo_data(folder: Path, images: int = IMAGES) -> str:
    """Draw ``images`` demo pictures below ``folder``: all are validated on, four of five trained on. The data YAML."""
    from data.scripts.draw_mask_demo import Settings, draw

    drawn = draw(folder / "demo", Settings(images=images))
    description = {"path": str(drawn), "train": "images/train", "val": ["images/train", "images/val"]}
    write_yaml(folder / "demo.yaml", description | {"names": read_yaml(ROOT / "data/mask_demo.yaml")["names"]})
    return str(folder / "demo.yaml")


def random_checkpoint(folder: Path, name: str) -> Path:
    """A checkpoint of ``models/<name>.yaml`` for the classes of the demo data, its batch-norm gammas from 0 to 1."""
    import torch
    from torch import nn

    from models.yolo import DetectionModel
    from utils.checkpoint import save_checkpoint

    torch.manual_seed(0)
    names = read_yaml(ROOT / "data/mask_demo.yaml")["names"]
    model = DetectionModel(str(ROOT / f"models/{name}.yaml"), nc=len(names))
    model.names = list(names.values())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    file = folder / f"{name}.pt"
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None, "opt": {"sr": 0.001}}, file)
    return file


def responsive_checkpoint(folder: Path, name: str, split: Any, imgsz: int) -> Path:
    """The same network, its batch norms set by images of ``split``: what it finds depends on the image, and varies."""
    import torch
    from torch import nn

    from models.loading import load_checkpoint
    from utils.checkpoint import save_checkpoint
    from utils.dataset.items import LoadImagesAndLabels

    file = random_checkpoint(folder, name)
    model = load_checkpoint(file)["model"].float()
    dataset = LoadImagesAndLabels(split, imgsz)
    images = torch.stack([dataset[number][0] for number in range(min(16, len(dataset)))]).float() / 255
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.reset_running_stats()
    with torch.no_grad():
        model.train()(images)
        for convolution in model.model[-1].m:
            convolution.weight *= HEAD_CONTRAST
    for norm in norms:
        norm.momentum = 0.03
    save_checkpoint({"epoch": -1, "model": model.eval(), "ema": None, "optimizer": None}, file)
    return file


def training_state(
    cfg: str, names: list[str], image_size: int, batch_size: int, batches: int, device: Any = None, amp: str = "off"
) -> Any:
    """Model, optimizer, moving average and loss of an epoch of ``batches``, as train.py builds them."""
    import torch

    from models.yolo import DetectionModel
    from utils.callbacks import Callbacks
    from utils.training.state import build_state

    torch.manual_seed(0)
    hyp = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
    device = device or torch.device("cpu")
    model: Any = DetectionModel(cfg, nc=len(names)).to(device)
    scale_gains(hyp, model.model[-1].nl, len(names), image_size, 0.0)
    model.hyp, model.names, model.nc = hyp, names, len(names)
    chosen = build(TrainOptions, batch_size=batch_size, epochs=1, amp=amp)
    known = {"callbacks": Callbacks(), "device": device, "image_size": image_size, "grid_size": 32}
    state = build_state(model, chosen, hyp, [None] * batches, **known)
    state.warmup_batches = 0
    return state


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and OpenCV, so that CPU time is what the work takes, and few lines in the log."""
    import cv2
    import torch

    from utils.log import warnings_only

    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        with warnings_only():
            yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


@contextmanager
def plain_memory() -> Iterator[None]:
    """Give freed memory back to the system meanwhile, as is usual."""
    set_thresholds(*PLAIN_THRESHOLDS)
    try:
        yield
    finally:
        keep_freed_memory()
