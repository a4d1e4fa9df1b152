"""Rarer blocks, and loading by file. Checkpoints pickle ``MixConv2d``, ``Sum`` and ``Ensemble`` by this path."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.errors import InputError


class Sum(nn.Module):
    """Sum of several maps, optionally weighted by learned factors of 0 to 2 (Tan et al., 2020)."""

    def __init__(self, n: int, weight: bool = False):
        super().__init__()
        self.weight = weight
        self.iter = range(n - 1)
        if weight:
            self.w = nn.Parameter(-torch.arange(1.0, n) / 2)

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
    """Several detectors whose boxes are joined before NMS."""

    def forward(self, x: torch.Tensor, augment: bool = False, profile: bool = False, visualize: Any = False) -> tuple:
        """(B, 3, H, W) -> ((B, sum N_i, no), None)."""
        return torch.cat([model(x, augment, profile, visualize)[0] for model in self], dim=1), None


def attempt_load(
    weights: str | Path | list[str], device: torch.device | None = None, inplace: bool = True, fuse: bool = True
) -> nn.Module:
    """A detector ready for inference (FP32, eval mode) from a checkpoint, or an Ensemble from several.

    Raises:
        MissingFileError, CheckpointError: see models.loading. InputError: the classes of an ensemble differ.
    """
    from models.loading import load_checkpoint

    models = []
    for file in weights if isinstance(weights, list) else [weights]:
        checkpoint = load_checkpoint(file)
        model = (checkpoint.get("ema") or checkpoint["model"]).to(device).float().eval()
        model.inplace = model.model[-1].inplace = inplace
        models.append(model.fuse().eval() if fuse else model)
    if len(models) == 1:
        return models[0]
    names = [list(model.names) for model in models]
    if any(other != names[0] for other in names):
        raise InputError(f"the models of an ensemble must know the same classes, got {names}")
    ensemble = Ensemble(models)
    ensemble.names, ensemble.nc, ensemble.yaml = models[0].names, len(names[0]), models[0].yaml
    ensemble.stride = max((model.stride for model in models), key=lambda stride: float(stride.max()))
    return ensemble
