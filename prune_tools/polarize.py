"""Polarised sparse training: the channels that will be cut go to zero, all others stay free.

An L1 penalty shrinks every gamma, also those that stay, and that costs accuracy. Here only the channels that the loss
needs least are pushed, a growing number of them, each to exactly zero within about an epoch; the rest of the run lets
the others take over. The choice follows Molchanov et al. (Importance Estimation for Neural Network Pruning, CVPR 2019),
the growing penalty on a fixed set Wang et al. (Neural Pruning via Growing Regularization, ICLR 2021), and the number of
chosen channels the cubic schedule of Zhu and Gupta (To Prune, or Not to Prune, 2017).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from prune_tools.gammas import ChannelGammas

FIRST, LAST = 0.05, 0.5  # shares of the run between which channels are chosen
FALL = 1.0  # epochs in which a chosen gamma falls to zero
FREE_SHARE = 0.1  # share of each layer's channels that is never chosen, at least one channel


class Polarizer:
    """Chooses the channels to push to zero, and by how much per step.

    Args:
        gammas: the channels.
        share: of all channels, to be at zero in the end.
        epochs: of the run.
        batches: per epoch.
    """

    def __init__(self, gammas: ChannelGammas, share: float, epochs: int, batches: int) -> None:
        """Choose nothing yet."""
        self.gammas, self.share, self.epochs, self.batches = gammas, share, epochs, batches
        zeros = torch.zeros(gammas.count, device=gammas.layer.device)
        self.saliency, self.speed, self.chosen = zeros, zeros.clone(), zeros.bool()
        self.progress = 0.0  # epochs during which the number of chosen channels was allowed to grow
        self.held = False  # whether it may not grow at present

    def observe(self) -> None:
        """Take in the gradients of an optimizer step, before the step."""
        self.saliency += self.gammas.saliency()

    def goal(self) -> int:
        """How many channels should be chosen by now."""
        start, end = FIRST * self.epochs, max(LAST * self.epochs, 1.0)
        done = min(max((self.progress - start) / (end - start), 0.0), 1.0)
        return round(self.share * (1 - (1 - done) ** 3) * self.gammas.count)

    def _spared(self) -> torch.Tensor:
        """(count,) mask: the most salient channels of each layer, which are never chosen."""
        layer = self.gammas.layer
        order = self.saliency.argsort()
        order = order[layer[order].argsort(stable=True)]  # layer by layer, within each by saliency
        widths = torch.bincount(layer)
        place = torch.arange(len(layer), device=layer.device) - (widths.cumsum(0) - widths)[layer[order]]
        free = (widths * FREE_SHARE).ceil().clamp(min=1)[layer[order]]
        spared = torch.zeros_like(self.chosen)
        spared[order] = place >= widths[layer[order]] - free
        return spared

    def step(self, batches: int) -> None:
        """After an optimizer step that applied ``batches`` batches: choose further channels, shrink the chosen ones."""
        if not self.held:
            self.progress += batches / self.batches
        missing = self.goal() - int(self.chosen.sum())
        if missing > 0:
            candidates = torch.where(self.chosen | self._spared(), math.inf, self.saliency)
            new = candidates.argsort()[:missing]
            new = new[candidates[new].isfinite()]
            self.chosen[new] = True
            self.speed[new] = self.gammas.magnitudes()[new] / (FALL * self.batches)
        self.gammas.shrink(self.speed * self.chosen * batches)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        names = ("saliency", "speed", "chosen", "progress", "held")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        for name, value in saved.items():
            own = getattr(self, name)
            setattr(self, name, value.to(own.device) if isinstance(own, torch.Tensor) else value)
