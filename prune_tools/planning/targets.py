"""Plans for a budget: so many parameters, operations or milliseconds, instead of a percentage of channels.

Channels go one block after the other, always the block that costs the least score for what it saves (see
``RemovalPath``), until the network is within its budget.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prune_tools.channels.groups import ChannelGroup
from prune_tools.planning.costs import CostModel, readable
from prune_tools.planning.plan import Limits, Plan, keep_largest
from utils.errors import InputError, short_repr

TOLERANCE = 0.02  # share of a target by which it may be missed before the log says so
FIXED_SHARE = 0.7  # of the whole network's time: if the narrowest one takes more, its width is not what costs time
MOST_MEASUREMENTS = 12  # of a search by time
DOUBT_AFTER = 3  # networks in a row that are too fast: then the one that was too slow is measured again
COST_EXPONENT = 1.0  # see RemovalPath

UNITS: dict[str, dict[str, float]] = {
    "params": {"": 1, "k": 1e3, "m": 1e6, "g": 1e9},
    "flops": {"m": 1e6, "g": 1e9, "t": 1e12},
    "latency": {"": 1, "ms": 1, "s": 1e3},
}
EXAMPLES = {"params": "0.9M", "flops": "2.1G", "latency": "12ms"}


@dataclass(frozen=True)
class Target:
    """At most ``value`` of ``quantity`` ('params', 'flops', 'latency'): absolute, or a share of what there is now."""

    quantity: str
    value: float
    relative: bool

    @property
    def flag(self) -> str:
        """The command line's name for it."""
        return f"--target-{self.quantity}"

    def budget(self, present: float) -> float:
        """The absolute budget, given what the network costs now. Raises InputError when it costs no more than that."""
        budget = self.value * present if self.relative else self.value
        if budget >= present:
            raise InputError(
                f"{self.flag} {readable(self.quantity, budget)} is no less than what the model has already, "
                f"{readable(self.quantity, present)}: give less, or a ratio such as 0.5"
            )
        return budget


def parse_target(quantity: str, text: str) -> Target:
    """Read ``0.9M``, ``2.1G``, ``12ms`` (absolute) or ``0.5`` (a ratio). Raises InputError."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", str(text).lower())
    problem = InputError(
        f"--target-{quantity} {short_repr(text)} is not a valid amount: expected one such as {EXAMPLES[quantity]}, or "
        "the ratio that remains, above 0 and below 1, such as 0.5"
    )
    if match is None:
        raise problem
    value, unit = float(match[1]), match[2]
    if not unit and 0 < value < 1:
        return Target(quantity, value, relative=True)
    if unit not in UNITS[quantity] or value <= 0:
        raise problem
    return Target(quantity, value * UNITS[quantity][unit], relative=False)


def target_of(options: Any, quantities: Sequence[str]) -> Target | None:
    """The one target among the options ``target_<quantity>``, None if none is given.

    Raises:
        InputError: several are given, or one that is not a valid amount.
    """
    given = [name for name in quantities if getattr(options, f"target_{name}")]
    if len(given) > 1:
        flags = " and ".join(f"--target-{name}" for name in given)
        raise InputError(f"{flags} contradict each other: give one of them")
    return parse_target(given[0], getattr(options, f"target_{given[0]}")) if given else None


class RemovalPath:
    """The order in which channels go, from the whole network to the least that the limits allow.

    In each step one group goes down to the next number of channels that it may have: the one with the smallest mean
    score of these channels, divided by ``slope ** cost_exponent``, where the slope is what a channel of the group costs
    at that moment. 1 is the greedy answer to the knapsack problem, 0 a plain threshold over all scores.

    Attributes:
        order: the group of each step.
        counts: (steps + 1, groups) channels that each group keeps after so many steps.
        costs: (steps + 1,) the network's cost after so many steps.
    """

    def __init__(
        self,
        scores: Sequence[np.ndarray],
        costs: CostModel,
        quantity: str,
        limits: Limits,
        cost_exponent: float = COST_EXPONENT,
    ) -> None:
        """Walk the whole path; ``scores`` has one array per group of ``costs``."""
        allowed = [limits.allowed(len(values)) for values in scores]
        totals = [np.concatenate([[0.0], np.sort(values)[::-1].cumsum()]) for values in scores]
        places = np.array([len(options) - 1 for options in allowed])
        counts = np.array([options[-1] for options in allowed])
        nexts = np.array([options[place - 1] if place else -1 for options, place in zip(allowed, places, strict=True)])
        means = np.array([self._mean(totals[g], nexts[g], counts[g]) for g in range(len(scores))])
        self.order: list[int] = []
        history, spent = [counts.copy()], [costs(quantity, counts)]
        while np.isfinite(means).any():
            slope = np.maximum(costs.slope(quantity, counts), 1e-12)
            group = int((means / slope**cost_exponent).argmin())
            self.order.append(group)
            counts[group] = nexts[group]
            places[group] -= 1
            nexts[group] = allowed[group][places[group] - 1] if places[group] else -1
            means[group] = self._mean(totals[group], nexts[group], counts[group])
            history.append(counts.copy())
            spent.append(costs(quantity, counts))
        self.counts, self.costs = np.array(history), np.array(spent)
        self._allowed, self._model, self._quantity = allowed, costs, quantity

    @staticmethod
    def _mean(totals: np.ndarray, below: int, count: int) -> float:
        """Mean score of the channels that the next step takes; infinite when there is none."""
        return float((totals[count] - totals[below]) / (count - below)) if below >= 0 else np.inf

    def within(self, budget: float) -> np.ndarray:
        """The counts (groups,) of the first point within ``budget``, and what of the last steps fits back in."""
        reached = int((self.costs <= budget).argmax())
        counts = self.counts[reached].copy()
        for group in reversed(self.order[:reached]):
            larger = counts.copy()
            larger[group] = self._allowed[group][np.searchsorted(self._allowed[group], counts[group]) + 1]
            if self._model(self._quantity, larger) <= budget:
                counts = larger
        return counts


class TargetPlanner:
    """Makes plans for targets from one set of groups, scores and limits."""

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        scores: Mapping[str, torch.Tensor],
        costs: CostModel,
        limits: Limits | None = None,
    ) -> None:
        """Keep what every plan needs. Raises InputError when there are no groups."""
        if not groups:
            raise InputError("there are no prunable layers to plan for")
        self.groups, self.scores, self.costs = list(groups), scores, costs
        self.limits = limits or Limits()

    def _path(self, quantity: str) -> RemovalPath:
        values = [self.scores[group.name].double().numpy() for group in self.groups]
        return RemovalPath(values, self.costs, quantity, self.limits)

    def _plan(self, counts: np.ndarray) -> Plan:
        pairs = zip(self.groups, counts, strict=True)
        kept = {group.name: keep_largest(self.scores[group.name], int(count)) for group, count in pairs}
        return Plan(kept, percent=1 - counts.sum() / self.costs.sizes.sum(), limits=self.limits)

    def plan(self, target: Target, measure: Callable[[Plan], tuple[float, float]] | None = None) -> Plan:
        """The plan that keeps the most within ``target``.

        Args:
            target: what to reach.
            measure: for 'latency', the milliseconds of (the plan's network, the whole network).

        Raises:
            InputError: the model is within the target already, or no plan is (the message says what is possible).
        """
        if target.quantity != "latency":
            path = self._path(target.quantity)
            budget = target.budget(path.costs[0])
            self._check_reachable(target, budget, path.costs[-1], path.costs[0])
            plan = self._plan(path.within(budget))
            reached = self.costs.of_plan(plan)[target.quantity]
            present = path.costs[0]
        else:
            assert measure is not None
            plan, reached, budget, present = self._search(target, measure)
        plan.goal = self._summary(target, plan, reached, budget, present)
        return plan

    def _check_reachable(self, target: Target, budget: float, least: float, present: float) -> None:
        if least <= budget:
            return
        message = (
            f"{target.flag} {readable(target.quantity, budget)} cannot be reached: the least possible with "
            f"--min-channels {self.limits.min_channels}, --round-to {self.limits.round_to} and --max-layer-ratio "
            f"{self.limits.max_layer_ratio:g} is {readable(target.quantity, least)}"
        )
        if target.quantity == "latency" and least > FIXED_SHARE * present:
            message += (
                f", and the whole network takes {readable(target.quantity, present)}: for one image here, starting the "
                "operations takes most of the time, and fewer channels save little of it. Measure on the machine that "
                "the network is for, or give --target-flops"
            )
        raise InputError(message)

    def _search(
        self, target: Target, measure: Callable[[Plan], tuple[float, float]]
    ) -> tuple[Plan, float, float, float]:
        """Find the place on the path of operations whose network is as fast as wanted, by bisection on operations."""
        from tqdm import tqdm

        path = self._path("flops")
        with tqdm(total=MOST_MEASUREMENTS, desc="Measuring", disable=None, leave=False) as progress:

            def timed(operations: float) -> tuple[Plan, float, float]:
                plan = self._plan(path.within(operations))
                fast, whole = measure(plan)
                progress.update()
                progress.set_postfix_str(f"{operations / 1e9:.3g} GFLOPs: {fast:.3g} ms, whole: {whole:.3g} ms")
                return plan, fast, whole

            low, too_slow, successes = float(path.costs[-1]), [float(path.costs[0])], 0  # what has been judged so
            best, milliseconds, present = timed(low)
            budget = target.budget(present)
            self._check_reachable(target, budget, milliseconds, present)
            for _ in range(MOST_MEASUREMENTS - 1):
                if milliseconds >= budget * (1 - TOLERANCE):
                    break
                doubtful = successes >= DOUBT_AFTER and len(too_slow) > 1  # another process may have slowed it down
                middle = too_slow[-1] if doubtful else (low + too_slow[-1]) / 2
                plan, fast, whole = timed(middle)
                # A busy machine slows both networks: compare with the whole one, measured in turns
                limit = target.value * whole if target.relative else budget
                successes = successes + 1 if fast <= limit and not doubtful else 0
                if fast <= limit:
                    low, best, milliseconds, budget, present = middle, plan, fast, limit, whole
                    if doubtful:
                        too_slow.pop()
                elif not doubtful:
                    too_slow.append(middle)
        return best, milliseconds, budget, present

    def _summary(self, target: Target, plan: Plan, reached: float, budget: float, present: float) -> str:
        quantity, costs = target.quantity, self.costs.of_plan(plan)
        text = f"Target met: {readable(quantity, reached)} of at most {readable(quantity, budget)}"
        if reached < budget * (1 - TOLERANCE):
            text += f" ({1 - reached / budget:.1%} below it: the nearest step of whole channels and --round-to)"
        whole = {name: self.costs(name, self.costs.sizes) for name in costs}
        changes = [
            f"{readable(name, cost)} ({cost / whole[name] - 1:+.1%})"
            for name, cost in costs.items()
            if name != quantity
        ]
        changes.append(f"{plan.percent:.1%} of the prunable channels go")
        return f"{text}, {reached / present - 1:+.1%}; {'; '.join(changes)}"
