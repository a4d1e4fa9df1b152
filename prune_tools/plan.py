"""Which channels stay: one threshold over the scores of all prunable groups, with a floor for each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from prune_tools.groups import ChannelGroup
from utils.errors import InputError


@dataclass
class Plan:
    """The positions of each group that are kept, ascending; a group that is not named stays whole.

    ``capped`` names the groups in which the threshold would have left fewer than ``min_channels``; ``ceiling`` is the
    highest percent at which none is.
    """

    kept: dict[str, torch.Tensor]
    percent: float = 0.0
    threshold: float = 0.0
    min_channels: int = 1
    capped: dict[str, int] = field(default_factory=dict)  # group -> channels that had passed the threshold
    ceiling: float = 1.0

    def removed(self, group: ChannelGroup) -> torch.Tensor:
        """The positions of ``group`` that go, ascending."""
        kept = self.kept.get(group.name)
        if kept is None:
            return torch.zeros(0, dtype=torch.long)
        stays = torch.zeros(group.size, dtype=torch.bool)
        stays[kept] = True
        return (~stays).nonzero().flatten()

    def summary(self) -> str:
        """What the threshold is and what it was kept from doing, for the log."""
        text = (
            f"Threshold {self.threshold:.4g} at {self.percent:.1%} of the prunable channels; up to {self.ceiling:.1%} "
            f"every layer keeps at least {self.min_channels} by itself"
        )
        if self.capped:
            layers = ", ".join(f"{name} ({count})" for name, count in self.capped.items())
            text += (
                f"\n{self.percent:.1%} is above that, so these layers were capped at their {self.min_channels} largest "
                f"(in brackets, how many had passed the threshold): {layers}"
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


def plan_by_percent(
    groups: Sequence[ChannelGroup], scores: Mapping[str, torch.Tensor], percent: float, min_channels: int = 1
) -> Plan:
    """Keep every channel whose score reaches ``sorted_scores[int(n * percent)]``, and ``min_channels`` in each group.

    Raises:
        InputError: percent outside [0, 1), min_channels below 1, no groups.
    """
    check_percent(percent)
    if min_channels < 1:
        raise InputError(
            f"--min-channels must be at least 1, got {min_channels}: a layer without channels cannot exist"
        )
    if not groups:
        raise InputError("there are no prunable layers to plan for")
    scores = order_zeros({group.name: scores[group.name] for group in groups})
    ranked = torch.cat([scores[group.name] for group in groups]).sort().values
    threshold = ranked[int(len(ranked) * percent)]
    kept, capped, floors = {}, {}, []
    for group in groups:
        values = scores[group.name]
        floor = min(min_channels, group.size)
        descending = values.sort(descending=True, stable=True)
        floors.append(descending.values[floor - 1])
        passed = values >= threshold
        if int(passed.sum()) < floor:
            capped[group.name] = int(passed.sum())
            passed[descending.indices[:floor]] = True
        kept[group.name] = passed.nonzero().flatten()
    reachable = int((ranked <= torch.stack(floors).min()).sum()) - 1  # the last rank whose value caps nothing
    return Plan(kept, percent, max(float(threshold), 0.0), min_channels, capped, reachable / len(ranked))
