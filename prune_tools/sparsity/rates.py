"""How strong the penalty of sparse training is: a fixed schedule, or one found out from how the gammas move.

With learning rate ``lr`` and momentum ``m`` a batch moves a gamma by ``lr / (1 - m)`` times what acts on it: the
penalty's rate towards zero, and the loss, which holds against it with a force that differs from channel to channel.
``Course`` measures that force over an epoch and says where the gammas will be at the end, and which rate would have
brought each of them to zero by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from utils.training.state import TrainingState

NEARLY_ZERO = 1e-2  # smaller gammas count as ready to go
FINAL_FACTOR = 0.1  # the published rate decays linearly towards this share of its start
LARGEST_CHANGE = 2.0  # factor by which the automatic rate may change from one epoch to the next
DEADLINE = 0.75  # share of the run after which the automatic rate wants the gammas to be small
MEMORY = 0.5  # weight of the earlier epochs in the measured force
NORMS = 2  # the optimizer's parameter group that holds the gammas


def mobility(optimizer: torch.optim.Optimizer) -> float:
    """Return how far a constant gradient of 1 moves a gamma per step, in the long run."""
    group = optimizer.param_groups[NORMS]
    return group["lr"] / (1 - group.get("momentum", 0.0))


def decayed(rate: float, epoch: float, epochs: int) -> float:
    """The published schedule: from ``rate`` linearly towards a tenth of it."""
    return rate * (1 - (1 - FINAL_FACTOR) * epoch / epochs)


@dataclass
class Course:
    """Where the gammas came from and what holds them, measured once per epoch.

    Attributes:
        start: (count,), magnitudes before the first epoch.
        before: (count,), magnitudes at the end of the last epoch measured.
        force: (count,), what the loss sets against the penalty, in units of the rate; None before the first epoch.
        path: the sum of the mobilities of all batches of the present epoch.
        push: the same, each times its rate.
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
        """(count,): the magnitudes after a further ``path`` and ``push``, those that are small by now staying so."""
        force = torch.zeros_like(self.before) if self.force is None else self.force
        moved = self.before + force * path - push
        return torch.where(self.before < NEARLY_ZERO, self.before, moved)

    def needed(self, share: float, path: float, per_rate: float, origin: torch.Tensor | None = None) -> float:
        """The rate that brings ``share`` of all channels to zero over ``path`` (``per_rate``: the push of rate 1).

        From the present magnitudes, or from ``origin``: another run's start.
        """
        force = torch.zeros_like(self.before) if self.force is None else self.force
        magnitudes = self.before if origin is None else origin
        rates = (magnitudes + force * path).clamp(min=0) / max(per_rate, 1e-12)
        if origin is None:
            rates[self.before < NEARLY_ZERO] = 0
        return float(rates.sort().values[min(int(share * len(rates)), len(rates) - 1)])


def remaining_path(state: TrainingState, first: int, last: int, schedule: bool) -> tuple[float, float]:
    """Path of the epochs ``first`` to ``last - 1``, and its push at rate 1, decaying as published if ``schedule``."""
    group, momentum = state.optimizer.param_groups[NORMS], state.hyp["momentum"]
    path = push = 0.0
    for epoch in range(first, last):
        warm = np.minimum((np.arange(len(state.loader)) + epoch * len(state.loader)) / state.warmup_batches, 1)
        momenta = state.hyp["warmup_momentum"] * (1 - warm) + momentum * warm if "momentum" in group else 0 * warm
        rate = group["initial_lr"] * state.run.learning_rate_factor(max(epoch - 1, 0))  # they follow one epoch late
        part = float((rate * warm / (1 - momenta)).sum())
        path += part
        push += part * (decayed(1.0, epoch, state.epochs) if schedule else 1.0)
    return path, push
