"""Which channels stay: one threshold over the scores of all prunable groups, within limits for each group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from prune_tools.channels.groups import ChannelGroup
from utils.errors import InputError


@dataclass(frozen=True)
class Limits:
    """What every group keeps.

    Attributes:
        min_channels: at least so many channels (a smaller group stays whole).
        round_to: a multiple of this, unless it stays whole; kernels work on blocks of 8, 16 or 32 channels.
        max_layer_ratio: at most this share of a group goes.
    """

    min_channels: int = 1
    round_to: int = 1
    max_layer_ratio: float = 1.0

    def __post_init__(self) -> None:
        """Refuse limits that no plan can keep, by the name of their flag."""
        if self.min_channels < 1:
            raise InputError(
                f"--min-channels must be at least 1, got {self.min_channels}: a layer without channels cannot exist"
            )
        if self.round_to < 1:
            raise InputError(f"--round-to must be at least 1, got {self.round_to}: 8 suits most kernels")
        if not 0 < self.max_layer_ratio <= 1:
            raise InputError(
                "--max-layer-ratio is the largest share that a layer may lose, expected a number above 0 and up to 1, "
                f"got {self.max_layer_ratio}"
            )

    def allowed(self, size: int) -> np.ndarray:
        """The numbers of channels that a group of ``size`` may keep, ascending; the last one is ``size``."""
        share = math.ceil(size * (1 - self.max_layer_ratio) - 1e-9)
        least = max(min(self.min_channels, size), share, 1)
        first = math.ceil(least / self.round_to) * self.round_to
        return np.array([*range(first, size, self.round_to), size])

    def nearest(self, size: int, count: int) -> int:
        """The allowed number nearest to ``count``; of two, the larger."""
        options = self.allowed(size)[::-1]
        return int(options[np.abs(options - count).argmin()])


@dataclass
class Plan:
    """The positions of each group that are kept, ascending; a group that is not named stays whole.

    ``capped`` names the groups in which the threshold would have left fewer channels than the limits ask for;
    ``ceiling`` is the highest percent at which none is. ``goal`` is what a plan for a target says of itself.
    """

    kept: dict[str, torch.Tensor]
    percent: float = 0.0
    threshold: float = 0.0
    limits: Limits = Limits()
    capped: dict[str, int] = field(default_factory=dict)  # group -> channels that had passed the threshold
    ceiling: float = 1.0
    goal: str = ""
    warning: str = ""  # what speaks against it

    def removed(self, group: ChannelGroup) -> torch.Tensor:
        """The positions of ``group`` that go, ascending."""
        kept = self.kept.get(group.name)
        if kept is None:
            return torch.zeros(0, dtype=torch.long)
        stays = torch.zeros(group.size, dtype=torch.bool)
        stays[kept] = True
        return (~stays).nonzero().flatten()

    def summary(self) -> str:
        """Return what the plan reaches and what it was kept from doing, for the log."""
        if self.goal:
            return self.goal
        least = f"at least {self.limits.min_channels}"
        if self.limits.max_layer_ratio < 1:
            least += f" and {1 - self.limits.max_layer_ratio:.0%}"
        text = (
            f"Threshold {self.threshold:.4g} at {self.percent:.1%} of the prunable channels; up to {self.ceiling:.1%} "
            f"every layer keeps {least} by itself"
        )
        if self.limits.round_to > 1:
            text += f"; widths rounded to multiples of {self.limits.round_to}"
        if self.capped:
            layers = ", ".join(f"{name} ({count})" for name, count in self.capped.items())
            text += (
                f"\n{self.percent:.1%} is above that, so these layers were capped at their largest (in brackets, how "
                f"many had passed the threshold): {layers}"
            )
        return text


def check_percent(percent: float) -> float:
    """Return ``percent`` if it lies in [0, 1), else raise InputError."""
    if not 0 <= percent < 1:
        raise InputError(
            f"--percent is the share of channels to remove, expected a number in [0, 1), got {percent}: try 0.4"
        )
    return percent


def order_zeros(scores: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``scores`` with the exact zeros in an order, below zero: any of them may go, so the first ones do.

    Otherwise a model with more zeros than are to be removed would have a threshold of 0, which all channels reach.
    """
    ordered, zeros_left = {}, sum(int((values == 0).sum()) for values in scores.values())
    for name, values in scores.items():
        zero = values == 0
        ordered[name] = torch.where(zero, zero.cumsum(0) - zeros_left - 1, values)
        zeros_left -= int(zero.sum())
    return ordered


def keep_largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Positions of the ``count`` largest values, ascending; of equal values the first."""
    return values.sort(descending=True, stable=True).indices[:count].sort().values


def plan_by_percent(
    groups: Sequence[ChannelGroup], scores: Mapping[str, torch.Tensor], percent: float, limits: Limits | None = None
) -> Plan:
    """Keep every channel whose score reaches ``sorted_scores[int(n * percent)]``, within ``limits``.

    Raises:
        InputError: percent outside [0, 1), no groups.
    """
    limits = limits or Limits()
    check_percent(percent)
    if not groups:
        raise InputError("there are no prunable layers to plan for")
    scores = order_zeros({group.name: scores[group.name] for group in groups})
    ranked = torch.cat([scores[group.name] for group in groups]).sort().values
    threshold = ranked[int(len(ranked) * percent)]
    kept, capped, floors = {}, {}, []
    for group in groups:
        values = scores[group.name]
        floor = int(limits.allowed(group.size)[0])
        floors.append(values.sort(descending=True).values[floor - 1])
        passed = int((values >= threshold).sum())
        if passed < floor:
            capped[group.name] = passed
        kept[group.name] = keep_largest(values, limits.nearest(group.size, passed))
    reachable = int((ranked <= torch.stack(floors).min()).sum()) - 1  # the last rank whose value caps nothing
    return Plan(kept, percent, max(float(threshold), 0.0), limits, capped, reachable / len(ranked))
