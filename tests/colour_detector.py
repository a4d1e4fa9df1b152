"""A detector made by hand, which finds the discs and squares of the drawn data set by their colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.yolo import DetectionModel
from prune_tools.channels.groups import find_groups, select_groups
from prune_tools.planning.plan import Plan
from prune_tools.yolo_pruned import prune_model
from utils.checkpoint import save_checkpoint

CONFIG = {
    "nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0,
    "anchors": [[16, 16, 28, 28, 40, 40], [64, 64, 80, 80, 96, 96]],
    "backbone": [[-1, 1, "Conv", [8, 8, 8]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[0, 1], 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip
SHARPNESS = 16.0  # of the decision between red and blue


@torch.no_grad()
def colour_detector() -> DetectionModel:
    """A network of strides 8 and 16: red is class 0 (disc), blue class 1 (square), as large as the middle anchor."""
    model = DetectionModel(CONFIG).eval()
    model.names = ["disc", "square"]
    for parameter in model.parameters():
        parameter.zero_()
    for block in list(model.model)[:2]:
        block.bn.weight.fill_(1)
        block.bn.running_mean.zero_()
        block.bn.running_var.fill_(1)
    kernel = model.model[0].conv.weight  # (8, 3, 8, 8): red minus blue, blue minus red, averaged over a cell
    for channel, sign in ((0, 1.0), (1, -1.0)):
        kernel[channel, 0], kernel[channel, 2] = sign * SHARPNESS / 64, -sign * SHARPNESS / 64
    fine, coarse = model.model[-1].m
    weight, bias = fine.weight.view(3, 7, 8), fine.bias.view(3, 7)
    weight[:, 4, :2] = 0.4
    bias[:, 4] = torch.tensor([-4.0, -2.2, -3.0])
    weight[:, 5, 0], weight[:, 6, 1] = 0.4, 0.4
    bias[:, 5:] = -2
    coarse.bias.view(3, 7)[:, 4:] = -10
    return model


def save_colour_detector(path: Path, **more: object) -> Path:
    """Write the detector as a stripped checkpoint; ``more`` goes into it as it is."""
    save_checkpoint({"epoch": -1, "model": colour_detector(), "ema": None, "optimizer": None} | more, path)
    return path


def save_pruned_colour_detector(path: Path) -> Path:
    """Write the detector without half of the channels of each layer, which it has no use for."""
    model = colour_detector()
    groups = select_groups(find_groups(model), "all")
    prune_model(model, groups, Plan({group.name: np.arange(4) for group in groups}))
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, path)
    return path


def label_rows(folder: Path) -> dict[str, list[list[float]]]:
    """The numbers in the label files of a run, by stem."""
    files = sorted((folder / "labels").glob("*.txt"))
    return {
        file.stem: [[float(word) for word in line.split()] for line in file.read_text().splitlines()] for file in files
    }
