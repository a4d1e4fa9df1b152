"""Penalty strength: a fixed schedule, or one estimated from how the gammas move.

With learning rate ``lr`` and momentum ``m`` a batch moves a gamma by ``lr / (1 - m)`` times what acts on it: the
penalty's rate towards zero, and against it the loss, with a force that differs from channel to channel. ``Course``
measures that force over an epoch and predicts where the gammas will be at the end, and which rate would bring each of
them to zero by then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from utils.training.optim import NORMS
from utils.training.state import TrainingState

NEARLY_ZERO = 1e-2  # smaller gammas count as ready to be removed
FINAL_FACTOR = 0.1  # the published rate decays linearly towards this share of its start
LARGEST_CHANGE = 2.0  # factor by which the automatic rate may change from one epoch to the next
DEADLINE = 0.75  # share of the run by which the automatic rate aims to have the gammas small
MEMORY = 0.5  # weight of earlier epochs in the measured force


def mobility(optimizer: torch.optim.Optimizer) -> float:
    """The distance by which a constant gradient of 1 moves a gamma per step, in the long run."""
    group = optimizer.param_groups[NORMS]
    return group["lr"] / (1 - group.get("momentum", 0.0))


def decayed(rate: float, epoch: float, epochs: int) -> float:
    """The published schedule: from ``rate`` linearly towards a tenth of it."""
    return rate * (1 - (1 - FINAL_FACTOR) * epoch / epochs)


@dataclass
class Course:
    """The way of the gammas, and the force with which the loss acts on them, measured once per epoch.

    Attributes:
        start: (count,), magnitudes before the first epoch.
        before: (count,), magnitudes at the end of the last epoch measured.
        force: (count,), of the loss against the penalty, in units of the rate; None before the first epoch.
        path: sum of the mobilities of all batches of the present epoch.
        push: sum of the mobilities, each times its rate.
    """

    start: torch.Tensor
    before: torch.Tensor
    force: torch.Tensor | None = None
    path: float = 0.0
    push: float = 0.0

    def step(self, rate: float, mobility_: float, batches: int) -> None:
        """Account for an optimizer step that applies ``batches`` batches."""
        self.path += mobility_ * batches
        self.push += rate * mobility_ * batches

    def measure(self, now: torch.Tensor) -> None:
        """Learn from the epoch that has just ended with the magnitudes ``now`` (count,)."""
        if self.path:
            force = (self.push - (self.before - now)) / self.path
            self.force = force if self.force is None else MEMORY * self.force + (1 - MEMORY) * force
        self.before, self.path, self.push = now, 0.0, 0.0

    def final(self, path: float, push: float) -> torch.Tensor:
        """(count,) magnitudes after a further ``path`` and ``push``; those that are small by now stay so."""
        force = torch.zeros_like(self.before) if self.force is None else self.force
        moved = self.before + force * path - push
        return torch.where(self.before < NEARLY_ZERO, self.before, moved)

    def needed(self, share: float, path: float, per_rate: float, origin: torch.Tensor | None = None) -> float:
        """The rate that brings ``share`` of all channels to zero.

        Args:
            share: of all channels, in [0, 1].
            path: of the batches that are left.
            per_rate: their push at rate 1.
            origin: (count,) magnitudes at the start of another run, instead of the present ones.
        """
        force = torch.zeros_like(self.before) if self.force is None else self.force
        magnitudes = self.before if origin is None else origin
        rates = (magnitudes + force * path).clamp(min=0) / max(per_rate, 1e-12)  # (count,), which each one needs
        if origin is None:
            rates[self.before < NEARLY_ZERO] = 0
        rank = min(int(share * len(rates)), len(rates) - 1)
        return float(rates.sort().values[rank])


def remaining_path(state: TrainingState, first: int, last: int, schedule: bool) -> tuple[float, float]:
    """Path of the epochs ``first`` to ``last - 1``, and its push at rate 1, decaying as published if ``schedule``."""
    group = state.optimizer.param_groups[NORMS]
    batches = np.arange(len(state.loader))
    path = push = 0.0
    for epoch in range(first, last):
        warm = np.minimum((batches + epoch * len(batches)) / state.warmup_batches, 1)  # (batches,), 1 after the warm-up
        momenta = np.zeros_like(warm)
        if "momentum" in group:
            momenta = state.hyp["warmup_momentum"] * (1 - warm) + state.hyp["momentum"] * warm
        rate = group["initial_lr"] * state.run.learning_rate_factor(max(epoch - 1, 0))  # they follow one epoch late
        part = float((rate * warm / (1 - momenta)).sum())
        path += part
        push += part * (decayed(1.0, epoch, state.epochs) if schedule else 1.0)
    return path, push
