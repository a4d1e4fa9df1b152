"""Polarised sparse training: the channels that will be removed go to zero, all others stay free.

An L1 penalty shrinks every gamma, including those that stay, which costs accuracy. Here only the channels that the loss
needs least are pushed, a growing number of them, each to exactly zero within about an epoch; in the rest of the run the
others take over. The choice follows Molchanov et al. (Importance Estimation for Neural Network Pruning, CVPR 2019),
the growing penalty on a fixed set Wang et al. (Neural Pruning via Growing Regularization, ICLR 2021), and the number of
chosen channels the cubic schedule of Zhu and Gupta (To Prune, or Not to Prune, 2017).

A reversible choice also lets chosen channels return until the last choice, as Hou et al. do (CHEX: Channel Exploration
for CNN Model Compression, CVPR 2022): in a training that starts far from its goal, early gradients say little of what
the trained network will need.
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
LONGEST_HOLD = 0.3  # maximum total share of the run for which choosing may pause, so that the goal is still reached
FALL = 1.0  # epochs in which a chosen gamma falls to zero
LEAST_DISTANCE = 0.25  # of the mean gamma: a chosen one falls at least as fast as one of this size
FREE_SHARE = 0.1  # share of each layer's channels that is never chosen, at least one channel
STRIDE = 0.1  # epochs between choices

# Of a reversible choice
REVERSIBLE_FIRST, REVERSIBLE_LAST = 0.15, 0.6  # in place of FIRST and LAST: the network has to learn its task first
MEMORY = 1.0  # epochs over which saliencies are averaged
STAY = 0.5  # factor on the saliency of chosen channels: only clearly needed ones return, and do not flicker
RETURN = 0.25  # of the gammas that a channel had when it was chosen: what it returns with


class Chooser(Protocol):
    """Chooses the channels that should go to zero."""

    def __call__(self, saliency: torch.Tensor, chosen: torch.Tensor, done: float) -> torch.Tensor:
        """Mask (count,) of the channels that should be on their way to zero.

        Args:
            saliency: (count,), how much the loss needs each channel.
            chosen: (count,), mask of the channels chosen before, which stay chosen unless the choice is reversible.
            done: progress towards the goal, in [0, 1].
        """


class ByShare:
    """Chooses the least salient channels, a share of all; the most salient ones of each layer stay.

    Args:
        layer: (count,), number of the group of each channel.
        share: of all channels, in the end.
        reversible: chosen channels may return.
    """

    def __init__(self, layer: torch.Tensor, share: float, reversible: bool = False) -> None:
        """Choose nothing yet."""
        self.layer = layer
        self.share = share
        self.reversible = reversible

    def __call__(self, saliency: torch.Tensor, chosen: torch.Tensor, done: float) -> torch.Tensor:
        """See Chooser."""
        if self.reversible:
            saliency = torch.where(chosen, STAY * saliency, saliency)
            chosen = torch.zeros_like(chosen)
        missing = round(self.share * done * len(chosen)) - int(chosen.sum())
        candidates = torch.where(chosen | self._spared(saliency), math.inf, saliency)
        new = candidates.argsort()[: max(missing, 0)]  # (missing,) indices
        result = chosen.clone()
        result[new[candidates[new].isfinite()]] = True
        return result

    def _spared(self, saliency: torch.Tensor) -> torch.Tensor:
        """(count,) mask: the most salient channels of each layer, which are never chosen."""
        layer = self.layer  # (count,)
        widths = torch.bincount(layer)  # (layers,)
        starts = widths.cumsum(0) - widths  # (layers,)
        order = saliency.argsort()
        order = order[layer[order].argsort(stable=True)]  # (count,) indices: layer by layer, within each by saliency
        owner = layer[order]
        rank_in_layer = torch.arange(len(layer), device=layer.device) - starts[owner]
        free = (widths * FREE_SHARE).ceil().clamp(min=1)[owner]
        spared = torch.zeros_like(layer, dtype=torch.bool)
        spared[order] = rank_in_layer >= widths[owner] - free
        return spared


class ByBudget:
    """Chooses the channels that save the most operations or parameters for their saliency.

    Args:
        groups: those that may lose channels, in the order of the channels.
        costs: of the network at given widths.
        target: 'params' or 'flops' that remain in the end.
        round_to: each layer keeps a multiple of this many channels.
        reversible: chosen channels may return.

    Raises:
        InputError: the target cannot be reached, or the network costs no more than that.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        costs: CostModel,
        target: Target,
        round_to: int = 1,
        reversible: bool = False,
    ) -> None:
        """Check that the target can be reached."""
        self.reversible = reversible
        self.groups = groups
        self.costs = costs
        self.quantity = target.quantity
        self.limits = Limits(round_to=round_to, max_layer_ratio=1 - FREE_SHARE)
        self.present = costs(target.quantity, costs.sizes)
        self.final = target.budget(self.present)
        self._plan(torch.ones(int(costs.sizes.sum())), self.final)

    def __call__(self, saliency: torch.Tensor, chosen: torch.Tensor, done: float) -> torch.Tensor:
        """See Chooser."""
        budget = self.present - done * (self.present - self.final)
        if budget >= self.present:
            return chosen
        # (count,); those chosen before go first, or, if the choice is reversible, are at a disadvantage
        scores = torch.where(chosen, STAY * saliency if self.reversible else 0.0, saliency + TINY).cpu()
        planned = self._plan(scores, budget).to(chosen.device)
        return planned if self.reversible else chosen | planned

    def _plan(self, scores: torch.Tensor, budget: float) -> torch.Tensor:
        """Mask (count,) of the channels to remove for ``budget``."""
        sizes = self.costs.sizes.tolist()
        names = [group.name for group in self.groups]
        planner = TargetPlanner(
            self.groups, dict(zip(names, scores.split(sizes), strict=True)), self.costs, self.limits
        )
        plan = planner.plan(Target(self.quantity, budget, relative=False))
        removed = torch.ones(len(scores), dtype=torch.bool)
        for name, part in zip(names, removed.split(sizes), strict=True):  # views
            part[plan.kept[name]] = False
        return removed


class Polarizer:
    """Pushes more and more channels to zero.

    Args:
        gammas: all prunable channels.
        choose: chooses those to push.
        epochs: of the run.
        batches: per epoch.
        reversible: ``choose`` may let channels return.
    """

    def __init__(
        self, gammas: ChannelGammas, choose: Chooser, epochs: int, batches: int, reversible: bool = False
    ) -> None:
        """Choose nothing yet."""
        self.gammas = gammas
        self.choose = choose
        self.epochs = epochs
        self.batches = batches
        self.first, self.last = (REVERSIBLE_FIRST, REVERSIBLE_LAST) if reversible else (FIRST, LAST)
        # (G,), for a reversible choice: the gammas of chosen channels when they were chosen
        self.reference = gammas.values().float() if reversible else None
        self.saliency = torch.zeros(gammas.count, device=gammas.layer.device)  # (count,), summed over steps
        self.speed = torch.zeros_like(self.saliency)  # (count,), by which a gamma falls per batch
        self.chosen = torch.zeros_like(self.saliency, dtype=torch.bool)  # (count,)
        self.passed = 0.0  # epochs
        self.progress = 0.0  # epochs, without those for which choosing paused
        self.next_choice = 0.0  # progress at which to choose again
        self.held = False  # choosing pauses

    def observe(self) -> None:
        """Add the saliency of an optimizer step, before the step: it needs gradients."""
        if self.reference is None:
            self.saliency += self.gammas.saliency()
            return
        chosen = self.gammas.of_channels(self.chosen)  # (G,)
        values = torch.where(chosen, self.reference, self.gammas.values().float())  # (G,)
        self.saliency += self.gammas.saliency(values)

    @property
    def done(self) -> float:
        """Progress towards the goal by the schedule, in [0, 1]."""
        start, end = self.first * self.epochs, max(self.last * self.epochs, 1.0)
        done = min(max((self.progress - start) / (end - start), 0.0), 1.0)
        return 1 - (1 - done) ** 3

    def step(self, batches: int) -> None:
        """Choose further channels and shrink the chosen ones, after an optimizer step for ``batches`` batches."""
        self.passed += batches / self.batches
        if not self.held or self.passed - self.progress > LONGEST_HOLD * self.epochs:
            self.progress += batches / self.batches
        if self.progress >= self.next_choice:
            self.next_choice = self.progress + STRIDE if self.done < 1 else math.inf
            chosen = self.choose(self.saliency, self.chosen, self.done)
            new = chosen & ~self.chosen
            if self.reference is not None:
                self._return(self.chosen & ~chosen)
                self.reference = torch.where(self.gammas.of_channels(new), self.gammas.values(), self.reference)
            self.chosen = chosen
            magnitudes = self.gammas.magnitudes()
            # Gammas near zero would otherwise get too little push to withstand the optimizer
            distance = magnitudes.clamp(min=LEAST_DISTANCE * magnitudes.mean())
            self.speed[new] = distance[new] / (FALL * self.batches)
        self.gammas.shrink(self.speed * self.chosen * batches)
        if self.reference is not None:  # later steps count for more
            self.saliency *= max(1 - 1 / (MEMORY * self.batches), 0.0) ** batches

    def _return(self, channels: torch.Tensor) -> None:
        """Give the channels of a mask (count,), which are on their way to zero or there, a part of their gammas back.

        One that has not fallen so far yet keeps what it has.
        """
        assert self.reference is not None
        back = RETURN * self.reference  # (G,)
        present = self.gammas.values()  # (G,)
        self.gammas.assign(torch.where(present.abs() < back.abs(), back.to(present), present), channels)

    def state_dict(self) -> dict[str, Any]:
        """The fields that a resumed run needs."""
        names = ["saliency", "speed", "chosen", "passed", "progress", "next_choice", "held"]
        if self.reference is not None:
            names.append("reference")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        for name, value in saved.items():
            own = getattr(self, name)
            setattr(self, name, value.to(own.device) if isinstance(own, torch.Tensor) else value)
