"""Plans for a budget: a number of parameters, operations or milliseconds instead of a percentage of channels.

Channels are removed in blocks, always the block that loses the least score for its cost (see ``RemovalPath``), until
the network is within its budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from prune_tools.channels.groups import ChannelGroup
from prune_tools.planning.costs import CostModel
from prune_tools.planning.goals import Limits, Target, readable
from prune_tools.planning.plan import Plan, keep_largest
from utils.errors import InputError

TOLERANCE = 0.02  # share of a target by which it may be missed before the log mentions it
FIXED_SHARE = 0.7  # of the whole network's time; if the narrowest one takes longer, width is not what costs time
MOST_MEASUREMENTS = 12  # of a search by time
DOUBT_AFTER = 3  # fast candidates in a row; then the last slow one is measured again
COST_EXPONENT = 1.0  # see RemovalPath


class RemovalPath:
    """The order in which channels are removed, from the whole network to the least that the limits allow.

    In each step one group shrinks to the next number of channels that it may have: the group whose channels up to there
    have the smallest mean score, divided by ``slope ** cost_exponent``; the slope is the cost of one channel of the
    group at that moment. An exponent of 1 is the greedy answer to the knapsack problem, 0 a threshold over all scores.

    Attributes:
        order: the group of each step.
        counts: (S + 1, G), channels that each group keeps after 0 .. S steps.
        costs: (S + 1,), the network's cost after 0 .. S steps.
    """

    def __init__(
        self,
        scores: Sequence[np.ndarray],
        costs: CostModel,
        quantity: str,
        limits: Limits,
        cost_exponent: float = COST_EXPONENT,
    ) -> None:
        """Walk the whole path; ``scores`` has one array (C,) per group of ``costs``."""
        allowed = [limits.allowed(len(values)) for values in scores]  # per group, ascending
        totals = [np.concatenate([[0.0], np.sort(values)[::-1].cumsum()]) for values in scores]  # (C + 1,) per group
        levels = [len(sizes) - 1 for sizes in allowed]  # index of the present number among the allowed ones
        counts = np.array([sizes[-1] for sizes in allowed])  # (G,)

        def mean_of_next_block(group: int) -> float:
            """Mean score of the channels that the group's next step removes; infinite if there is no such step."""
            if levels[group] == 0:
                return np.inf
            count, below = counts[group], allowed[group][levels[group] - 1]
            return float((totals[group][count] - totals[group][below]) / (count - below))

        means = np.array([mean_of_next_block(group) for group in range(len(scores))])  # (G,)
        self.order: list[int] = []
        history = [counts.copy()]
        spent = [costs(quantity, counts)]
        while np.isfinite(means).any():
            slope = np.maximum(costs.slope(quantity, counts), 1e-12)  # (G,)
            group = int((means / slope**cost_exponent).argmin())
            self.order.append(group)
            levels[group] -= 1
            counts[group] = allowed[group][levels[group]]
            means[group] = mean_of_next_block(group)
            history.append(counts.copy())
            spent.append(costs(quantity, counts))
        self.counts = np.array(history)
        self.costs = np.array(spent)
        self._allowed, self._model, self._quantity = allowed, costs, quantity

    def within(self, budget: float) -> np.ndarray:
        """The counts (G,) of the first point within ``budget``, plus the blocks of its last steps that fit back in."""
        reached = int((self.costs <= budget).argmax())
        counts = self.counts[reached].copy()
        for group in reversed(self.order[:reached]):
            larger = counts.copy()
            sizes = self._allowed[group]
            larger[group] = sizes[sizes.index(counts[group]) + 1]
            if self._model(self._quantity, larger) <= budget:
                counts = larger
        return counts


@dataclass(frozen=True)
class Candidate:
    """A plan and the measured milliseconds of its network and of the whole one, timed in alternation."""

    plan: Plan
    narrow: float
    whole: float


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
            target: the budget.
            measure: for 'latency', the milliseconds of (the plan's network, the whole network).

        Raises:
            InputError: the model is within the target already, or no plan is (the message says what is possible).
        """
        if target.quantity == "latency":
            assert measure is not None
            best = self._search(target, measure)
            best.plan.goal = self._summary(target, best.plan, best.narrow, best.whole)
            return best.plan
        path = self._path(target.quantity)
        present = float(path.costs[0])
        budget = target.budget(present)
        self._check_reachable(target, budget, path.costs[-1], present)
        plan = self._plan(path.within(budget))
        plan.goal = self._summary(target, plan, self.costs.of_plan(plan)[target.quantity], present)
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

    def _search(self, target: Target, measure: Callable[[Plan], tuple[float, float]]) -> Candidate:
        """Find the point on the path of operations whose network is just fast enough, by bisection on operations."""
        path = self._path("flops")
        with tqdm(total=MOST_MEASUREMENTS, desc="Measuring", disable=None, leave=False) as progress:

            def timed(operations: float) -> Candidate:
                plan = self._plan(path.within(operations))
                narrow, whole = measure(plan)
                progress.update()
                progress.set_postfix_str(f"{operations / 1e9:.3g} GFLOPs: {narrow:.3g} ms, whole: {whole:.3g} ms")
                return Candidate(plan, narrow, whole)

            fast_enough = float(path.costs[-1])  # the most operations that were fast enough
            too_slow = [float(path.costs[0])]  # those that were not, the latest last
            successes = 0  # in a row
            best = timed(fast_enough)
            budget = target.budget(best.whole)
            self._check_reachable(target, budget, best.narrow, best.whole)
            for _ in range(MOST_MEASUREMENTS - 1):
                if best.narrow >= budget * (1 - TOLERANCE):
                    break
                doubtful = successes >= DOUBT_AFTER and len(too_slow) > 1  # another process may have slowed it down
                operations = too_slow[-1] if doubtful else (fast_enough + too_slow[-1]) / 2
                candidate = timed(operations)
                # A busy machine slows both networks: compare with the whole one, measured in alternation
                limit = target.amount(candidate.whole)
                if candidate.narrow <= limit:
                    successes = 0 if doubtful else successes + 1
                    fast_enough, best, budget = operations, candidate, limit
                    if doubtful:
                        too_slow.pop()
                else:
                    successes = 0
                    if not doubtful:
                        too_slow.append(operations)
        return best

    def _summary(self, target: Target, plan: Plan, reached: float, present: float) -> str:
        """The plan in words: what it reaches of ``target``, where the whole network costs ``present``."""
        quantity, costs = target.quantity, self.costs.of_plan(plan)
        budget = target.amount(present)
        text = f"Target met: {readable(quantity, reached)} of at most {readable(quantity, budget)}"
        if reached < budget * (1 - TOLERANCE):
            text += f" ({1 - reached / budget:.1%} below it: the nearest step of whole channels and --round-to)"
        whole = {name: self.costs(name, self.costs.sizes) for name in costs}
        changes = [
            f"{readable(name, cost)} ({cost / whole[name] - 1:+.1%})"
            for name, cost in costs.items()
            if name != quantity
        ]
        changes.append(f"{plan.percent:.1%} of the prunable channels are removed")
        return f"{text}, {reached / present - 1:+.1%}; {'; '.join(changes)}"
