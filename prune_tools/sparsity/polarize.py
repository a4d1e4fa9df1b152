"""Polarised sparse training: the channels that will be cut go to zero, all others stay free.

An L1 penalty shrinks every gamma, also those that stay, and that costs accuracy. Here only the channels that the loss
needs least are pushed, a growing number of them, each to exactly zero within about an epoch; the rest of the run lets
the others take over. The choice follows Molchanov et al. (Importance Estimation for Neural Network Pruning, CVPR 2019),
the growing penalty on a fixed set Wang et al. (Neural Pruning via Growing Regularization, ICLR 2021), and the number of
chosen channels the cubic schedule of Zhu and Gupta (To Prune, or Not to Prune, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from prune_tools.channels.groups import ChannelGroup
from prune_tools.planning.costs import CostModel
from prune_tools.planning.goals import Limits, Target
from prune_tools.planning.targets import TargetPlanner
from prune_tools.sparsity.gammas import TINY, ChannelGammas

FIRST, LAST = 0.05, 0.5  # shares of the run between which channels are chosen
LONGEST_HOLD = 0.3  # share of the run for which choosing may be held in all, so that the goal is reached in any case
FALL = 1.0  # epochs in which a chosen gamma falls to zero
LEAST_DISTANCE = 0.25  # of the mean gamma: no chosen one falls more slowly than if it had so far to go
FREE_SHARE = 0.1  # share of each layer's channels that is never chosen, at least one channel
STRIDE = 0.1  # epochs between two choices


class Chooser(Protocol):
    """Says which channels should go to zero."""

    def __call__(self, saliency: torch.Tensor, chosen: torch.Tensor, done: float) -> torch.Tensor:
        """Mask (count,) of the channels that should be on their way to zero.

        Args:
            saliency: (count,), what the loss would miss.
            chosen: (count,), mask of the channels chosen before, which stay chosen.
            done: how much of the way to the goal has come, in [0, 1].
        """


class ByShare:
    """The least salient channels, a share of all; the most salient ones of each layer stay.

    Args:
        layer: (count,), number of the group of each channel.
        share: of all channels, in the end.
    """

    def __init__(self, layer: torch.Tensor, share: float) -> None:
        """Choose nothing yet."""
        self.layer, self.share = layer, share

    def __call__(self, saliency: torch.Tensor, chosen: torch.Tensor, done: float) -> torch.Tensor:
        """See Chooser."""
        missing = round(self.share * done * len(chosen)) - int(chosen.sum())
        candidates = torch.where(chosen | self._spared(saliency), math.inf, saliency)
        new = candidates.argsort()[: max(missing, 0)]
        wanted = chosen.clone()
        wanted[new[candidates[new].isfinite()]] = True
        return wanted

    def _spared(self, saliency: torch.Tensor) -> torch.Tensor:
        """(count,) mask: the most salient channels of each layer, which are never chosen."""
        layer = self.layer
        order = saliency.argsort()
        order = order[layer[order].argsort(stable=True)]  # layer by layer, within each by saliency
        widths = torch.bincount(layer)
        place = torch.arange(len(layer), device=layer.device) - (widths.cumsum(0) - widths)[layer[order]]
        free = (widths * FREE_SHARE).ceil().clamp(min=1)[layer[order]]
        spared = torch.zeros_like(layer, dtype=torch.bool)
        spared[order] = place >= widths[layer[order]] - free
        return spared


class ByBudget:
    """The channels that save the most operations or parameters for their saliency.

    Args:
        groups: those that may lose channels, in the order of the channels.
        costs: of the network's plans.
        target: 'params' or 'flops' that remain in the end.
        round_to: of the channels that each layer keeps.

    Raises:
        InputError: the target cannot be reached, or is none.
    """

    def __init__(self, groups: Sequence[ChannelGroup], costs: CostModel, target: Target, round_to: int = 1) -> None:
        """Make sure that the target can be reached."""
        self.groups, self.costs, self.quantity = groups, costs, target.quantity
        self.limits = Limits(round_to=round_to, max_layer_ratio=1 - FREE_SHARE)
        self.present = costs(target.quantity, costs.sizes)
        self.final = target.budget(self.present)
        self._plan(torch.ones(int(costs.sizes.sum())), self.final)

    def __call__(self, saliency: torch.Tensor, chosen: torch.Tensor, done: float) -> torch.Tensor:
        """See Chooser."""
        budget = self.present - done * (self.present - self.final)
        if budget >= self.present:
            return chosen
        scores = torch.where(chosen, 0.0, saliency + TINY).cpu()  # those chosen before go first
        return chosen | self._plan(scores, budget).to(chosen.device)

    def _plan(self, scores: torch.Tensor, budget: float) -> torch.Tensor:
        """Mask (count,) of the channels that go within ``budget``."""
        parts = dict(zip([group.name for group in self.groups], scores.split(self.costs.sizes.tolist()), strict=True))
        planner = TargetPlanner(self.groups, parts, self.costs, self.limits)
        plan = planner.plan(Target(self.quantity, budget, relative=False))
        gone = torch.ones(len(scores), dtype=torch.bool)
        for group, part in zip(self.groups, gone.split(self.costs.sizes.tolist()), strict=True):
            part[plan.kept[group.name]] = False
        return gone


class Polarizer:
    """Pushes more and more channels to zero.

    Args:
        gammas: the channels.
        choose: which of them.
        epochs: of the run.
        batches: per epoch.
    """

    def __init__(self, gammas: ChannelGammas, choose: Chooser, epochs: int, batches: int) -> None:
        """Choose nothing yet."""
        self.gammas, self.choose, self.epochs, self.batches = gammas, choose, epochs, batches
        zeros = torch.zeros(gammas.count, device=gammas.layer.device)
        self.saliency, self.speed, self.chosen = zeros, zeros.clone(), zeros.bool()
        self.passed = 0.0  # epochs
        self.progress = 0.0  # epochs during which the number of chosen channels was allowed to grow
        self.next_choice = 0.0  # the progress at which to choose again
        self.held = False  # whether it may not grow at present

    def observe(self) -> None:
        """Take in the gradients of an optimizer step, before the step."""
        self.saliency += self.gammas.saliency()

    @property
    def done(self) -> float:
        """Return how much of the way to the goal should have come by now, in [0, 1]."""
        start, end = FIRST * self.epochs, max(LAST * self.epochs, 1.0)
        done = min(max((self.progress - start) / (end - start), 0.0), 1.0)
        return 1 - (1 - done) ** 3

    def step(self, batches: int) -> None:
        """After an optimizer step that applied ``batches`` batches: choose further channels, shrink the chosen ones."""
        self.passed += batches / self.batches
        if not self.held or self.passed - self.progress > LONGEST_HOLD * self.epochs:
            self.progress += batches / self.batches
        if self.progress >= self.next_choice:
            self.next_choice = self.progress + STRIDE if self.done < 1 else math.inf
            wanted = self.choose(self.saliency, self.chosen, self.done)
            new = wanted & ~self.chosen
            self.chosen = wanted
            magnitudes = self.gammas.magnitudes()
            # Those that are about zero already would have no push of their own against what the optimizer gives back
            distance = magnitudes.clamp(min=LEAST_DISTANCE * magnitudes.mean())
            self.speed[new] = distance[new] / (FALL * self.batches)
        self.gammas.shrink(self.speed * self.chosen * batches)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        names = ("saliency", "speed", "chosen", "passed", "progress", "next_choice", "held")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        for name, value in saved.items():
            own = getattr(self, name)
            setattr(self, name, value.to(own.device) if isinstance(own, torch.Tensor) else value)
