"""Rarer blocks, and loading by file. Checkpoints pickle ``MixConv2d``, ``Sum`` and ``Ensemble`` by this path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.errors import InputError


class Sum(nn.Module):
    """Sum of several maps, optionally weighted by learned factors of 0 to 2 (Tan et al., 2020)."""

    w: nn.Parameter

    def __init__(self, n: int, weight: bool = False):
        super().__init__()
        self.weight, self.iter = weight, range(n - 1)
        starts = torch.tensor([-0.5 * position for position in range(1, n)])
        if weight:
            self.register_parameter("w", nn.Parameter(starts))

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        """List of (B, C, H, W) -> (B, C, H, W)."""
        if not self.weight:
            return sum(x[1:], start=x[0])
        factors = torch.sigmoid(self.w) * 2
        return sum((factor * map_ for factor, map_ in zip(factors, x[1:], strict=True)), start=x[0])


class MixConv2d(nn.Module):
    """Convolutions of several kernel sizes side by side (Tan and Le, 2019), then batch norm and activation."""

    def __init__(self, c1: int, c2: int, k: tuple[int, ...] = (1, 3), s: int = 1, equal_ch: bool = True):
        super().__init__()
        widths = _equal_channels(c2, len(k)) if equal_ch else _equal_parameters(c2, k)
        self.m = nn.ModuleList(
            nn.Conv2d(c1, width, size, s, size // 2, groups=math.gcd(c1, width), bias=False)
            for size, width in zip(k, widths, strict=True)
        )
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, c1, H, W) -> (B, c2, H / s, W / s)."""
        return self.act(self.bn(torch.cat([convolution(x) for convolution in self.m], dim=1)))


def _equal_channels(total: int, parts: int) -> list[int]:
    owners = np.floor(np.linspace(0, parts - 1e-6, total))
    return [int((owners == part).sum()) for part in range(parts)]


def _equal_parameters(total: int, kernels: tuple[int, ...]) -> list[int]:
    """Widths that sum to ``total`` and give each kernel size about as many weights, by least squares."""
    count = len(kernels)
    areas = np.array(kernels, dtype=float) ** 2
    equations = np.zeros((count, count))
    equations[0] = 1
    for row in range(1, count):
        equations[row, row - 1 : row + 1] = -areas[row - 1], areas[row]
    solution, *_ = np.linalg.lstsq(equations, np.array([total] + [0] * (count - 1), dtype=float), rcond=None)
    return [int(width) for width in solution.round()]


class Ensemble(nn.ModuleList):
    """Several detectors run side by side; their boxes are concatenated, for NMS to merge."""

    def forward(
        self, x: torch.Tensor, augment: bool = False, profile: bool = False, visualize: Any = False
    ) -> tuple[torch.Tensor, None]:
        """(B, ch, H, W) in 0..1 -> ((B, sum of N, no) boxes in pixels, None)."""
        return torch.cat([model(x, augment, profile, visualize)[0] for model in self], dim=1), None


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
    channels: int | None = 3,
) -> Any:
    """Load checkpoints for inference: EMA weights where there are any, FP32, eval mode.

    Args:
        weights: a checkpoint file, or several for an ensemble.
        device: where to put the model; default: the CPU.
        inplace: let Detect decode in place (less memory; False for tracing).
        fuse: fold batch norms into their convolutions.
        channels: of the images that the models will get; None: any, the caller makes images of its own.

    Returns:
        A DetectionModel; of several files an Ensemble with ``names``, ``nc`` and ``yaml`` of the first and the largest
        ``stride``.

    Raises:
        MissingFileError, CheckpointError: a file is missing or cannot be used; InputError: the class counts differ, or
            a model takes images with other channels.
    """
    from models.loading import load_checkpoint  # it needs the blocks of this module
    from models.prerequisites import check_channels
    from models.soundness import check_runs

    files = [weights] if isinstance(weights, str | Path) else list(weights)
    if not files:
        raise InputError("no weights given: name at least one checkpoint file")
    members = []
    for file in files:
        checkpoint = load_checkpoint(file)
        model = (checkpoint.get("ema") or checkpoint["model"]).to(device or "cpu").float().eval()
        if channels is not None:
            check_channels(model, file, channels)
        _set_inplace(model, inplace)
        check_runs(model, file)
        members.append(model.fuse().eval() if fuse else model)
    if len(members) == 1:
        return members[0]
    counts = [model.model[-1].nc for model in members]
    if len(set(counts)) > 1:
        listed = ", ".join(f"{file}: {count}" for file, count in zip(files, counts, strict=True))
        raise InputError(
            f"the models of an ensemble must know the same classes, got {listed} classes: choose files of one data set"
        )
    ensemble: Any = Ensemble(members)
    ensemble.names, ensemble.nc, ensemble.yaml = members[0].names, counts[0], members[0].yaml
    ensemble.stride = max((model.stride for model in members), key=lambda stride: float(stride.max()))
    return ensemble.eval()


def _set_inplace(model: nn.Module, inplace: bool) -> None:
    """Set ``inplace`` wherever there is one: the model, its head, its activations."""
    for module in model.modules():
        if "inplace" in vars(module):
            module.inplace = inplace  # type: ignore[assignment]
