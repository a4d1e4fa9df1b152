"""Plans: which channels of each group are kept, by one threshold over the scores of all groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from prune_tools.channels.groups import ChannelGroup
from prune_tools.planning.goals import Limits, check_percent
from utils.errors import InputError


@dataclass
class Plan:
    """The positions of each group that are kept; a group that is not named stays whole.

    Attributes:
        kept: by name of the group, (K,) int64, ascending.
        percent: share of the prunable channels that are removed.
        threshold: channels with a score of at least this are kept.
        limits: of every group.
        capped: groups in which the threshold would have left fewer channels than the limits ask for, with the number
            that had passed it.
        ceiling: the highest percent at which no group is capped.
        goal: summary of a plan for a target.
        warning: what speaks against this plan.
    """

    kept: dict[str, np.ndarray]
    percent: float = 0.0
    threshold: float = 0.0
    limits: Limits = field(default_factory=Limits)
    capped: dict[str, int] = field(default_factory=dict)
    ceiling: float = 1.0
    goal: str = ""
    warning: str = ""

    def removed(self, group: ChannelGroup) -> np.ndarray:
        """The positions of ``group`` that are removed, (R,) int64, ascending."""
        if group.name not in self.kept:
            return np.arange(0)
        return np.setdiff1d(np.arange(group.size), self.kept[group.name])

    def removes_any(self, groups: Sequence[ChannelGroup]) -> bool:
        """Tell whether any channel of these groups is removed."""
        return any(len(self.removed(group)) for group in groups)

    def summary(self) -> str:
        """The plan in words: what it reaches, and which limits stopped it."""
        if self.goal:
            return self.goal
        least = f"{self.limits.min_channels} channels" if self.limits.min_channels > 1 else "1 channel"
        if self.limits.max_layer_ratio < 1:
            least += f" and {1 - self.limits.max_layer_ratio:.0%}"
        text = (
            f"Removing the {self.percent:.1%} of the prunable channels with the lowest scores: those below "
            f"{self.threshold:.4g}"
        )
        if self.limits.round_to > 1:
            text += f"; widths rounded to multiples of {self.limits.round_to}"
        if not self.capped:
            return f"{text}. Every layer keeps at least {least}; this holds up to {self.ceiling:.1%}"
        layers = ", ".join(f"{name} ({count})" for name, count in self.capped.items())
        return (
            f"{text}. Some layers have fewer than {least} above this score, which happens beyond {self.ceiling:.1%}. "
            f"They keep the fewest channels that are allowed, those with their highest scores: {layers} (in brackets: "
            "the number above the score)"
        )


def order_zeros(scores: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``scores`` with the exact zeros replaced by -Z .. -1, the first of all Z zeros being the lowest.

    Otherwise, if more channels have score 0 than are to be removed, the threshold would be 0 and keep them all.
    """
    ordered, zeros_left = {}, sum(int((values == 0).sum()) for values in scores.values())
    for name, values in scores.items():
        zero = values == 0
        ordered[name] = torch.where(zero, zero.cumsum(0) - zeros_left - 1, values)
        zeros_left -= int(zero.sum())
    return ordered


def keep_largest(values: torch.Tensor, count: int) -> np.ndarray:
    """Positions of the ``count`` largest of the values (C,), ascending int64; of equal values the first."""
    order = values.sort(descending=True, stable=True).indices  # (C,)
    return order[:count].sort().values.cpu().numpy()


def keep_all(groups: Sequence[ChannelGroup], goal: str) -> Plan:
    """The plan that removes no channel; ``goal`` is its summary."""
    return Plan({group.name: np.arange(group.size) for group in groups}, goal=goal)


def plan_by_percent(
    groups: Sequence[ChannelGroup], scores: Mapping[str, torch.Tensor], percent: float, limits: Limits | None = None
) -> Plan:
    """Keep every channel whose score reaches ``sorted_scores[int(n * percent)]``, within ``limits``.

    Args:
        groups: those that take part.
        scores: (C,) by name of the group, higher is kept.
        percent: share of all their channels to remove, in [0, 1).
        limits: of every group.

    Raises:
        InputError: percent outside [0, 1), no groups.
    """
    limits = limits or Limits()
    check_percent(percent)
    if not groups:
        raise InputError("there are no prunable layers to plan for")
    scores = order_zeros({group.name: scores[group.name] for group in groups})
    ranked = torch.cat([scores[group.name] for group in groups]).sort().values  # (n,) ascending
    threshold = ranked[int(len(ranked) * percent)]
    kept, capped, floors = {}, {}, []
    for group in groups:
        values = scores[group.name]
        floor = limits.allowed(group.size)[0]  # channels that the group keeps in any case ...
        floors.append(values.sort(descending=True).values[floor - 1])  # ... and the lowest score among them
        passed = int((values >= threshold).sum())
        if passed < floor:
            capped[group.name] = passed
        kept[group.name] = keep_largest(values, limits.nearest(group.size, passed))
    reachable = int((ranked <= torch.stack(floors).min()).sum()) - 1  # the highest rank at which no group is capped
    return Plan(kept, percent, max(float(threshold), 0.0), limits, capped, reachable / len(ranked))
