"""The work of sweep.py: measure many ratios, find the cliff, propose a ratio."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prune_tools.options import PruneOptions
from prune_tools.planning.goals import Target
from prune_tools.planning.plan import Plan, plan_by_percent
from prune_tools.planning.targets import TargetPlanner
from prune_tools.report.sweep_view import LABELS, draw_sweep, table_rows
from prune_tools.sparsity.options import SparseOptions
from prune_tools.survey.options import FLAGS, SweepOptions
from prune_tools.survey.record import Point
from prune_tools.survey.survey import Survey
from utils.commands.interrupts import advising, same_command
from utils.commands.next_steps import following, log_next
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.folder_lock import held_folder
from utils.validation.options import ValOptions

CLIFF = 0.1  # of the whole model's mAP50-95; a smaller fall is not a cliff, however steep
STEEP = 2.0  # of the whole model's mAP50-95 per whole ratio: a tenth lost within 0.05


def find_cliff(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """The two points between which mAP50-95 falls most steeply, by at least CLIFF; None if it is STEEP nowhere.

    ``points`` are sorted by ratio; the first is the whole model. The two need not be neighbours, so closer points
    narrow a cliff down and do not hide it.
    """
    whole = points[0].map

    def steepness(pair: tuple[Point, Point]) -> float:
        return (pair[0].map - pair[1].map) / (pair[1].ratio - pair[0].ratio)

    falls = [pair for pair in combinations(points, 2) if pair[0].map - pair[1].map >= CLIFF * whole > 0]
    steepest = max(falls, key=steepness, default=None)
    return steepest if steepest is not None and steepness(steepest) >= STEEP * whole * (1 - 1e-9) else None


def propose(points: Sequence[Point], tolerance: float) -> Point | None:
    """The largest ratio up to which every point loses at most ``tolerance`` of the whole model's mAP50-95."""
    proposal = None
    for point in points[1:]:
        if point.map < (1 - tolerance) * points[0].map:
            break
        proposal = point
    return proposal


class Sweep(Survey[SweepOptions]):
    """A survey over ratios that all layers share."""

    def plan(self, ratio: float) -> Plan:
        """The plan that removes ``ratio``. Raises InputError when the limits do not allow so much."""
        if ratio == 0:
            return Plan({}, limits=self.limits)
        if self.options.by == "channels":
            return plan_by_percent(self.groups, self.scores, ratio, self.limits)
        planner = TargetPlanner(self.groups, self.scores, self.costs, self.limits)
        return planner.plan(Target(self.options.by, 1 - ratio, relative=True))

    def run(self) -> list[Point]:
        """Measure the ratios that are not finished; returns their points and all that were measured before."""
        with tqdm(self.options.grid(), desc="Sweeping", disable=None) as progress:
            for ratio in progress:
                if ("", ratio) in self.record.points:
                    continue
                try:
                    plan = self.plan(ratio)
                except InputError as error:
                    LOGGER.warning(f"WARNING: the sweep ends before {ratio:.1%}: {error}")
                    break
                point = self.measure(plan, ratio)
                progress.set_postfix_str(f"{ratio:.1%} removed: mAP50-95 {point.map:.3f}")
        points = self.record.sorted()
        if len(points) < 2:
            raise InputError("nothing to sweep: no ratio can be reached within the limits, see the warning above")
        return points


def prune_command(options: SweepOptions, ratio: float, folder: Path, recorded: Collection[str] = ()) -> str:
    """The command that prunes at ``ratio`` as the sweep did."""
    amount = ratio if options.by == "channels" else f"{1 - ratio:.4g}"
    goal: dict[str, Any] = {FLAGS[options.by]: amount, "sweep": str(folder)}
    goal |= {"weights": options.weights}
    return following("prune_tools/prune.py", PruneOptions, options, exact=True, recorded=recorded, **goal)


def command_without_proposal(options: SweepOptions, points: Sequence[Point], recorded: Collection[str] = ()) -> str:
    """The command of sparse training, after which more can be pruned; of validation, if the model finds nothing."""
    weights = options.weights[0]
    if points[0].map <= 0:
        return following("val.py", ValOptions, options, recorded=recorded, weights=weights)
    return following("prune_tools/train_sparity.py", SparseOptions, options, recorded=recorded, weights=weights)


def conclude(points: Sequence[Point], options: SweepOptions) -> tuple[dict[str, Any], str]:
    """Cliff and proposal as data and in words. ``points[0]`` is the whole model."""
    has_accuracy = points[0].map > 0
    cliff = find_cliff(points)
    proposal = propose(points, options.tolerance) if has_accuracy else None
    if has_accuracy:
        removed = LABELS[options.by]
        text = _cliff_in_words(cliff, removed) + "\n" + _proposal_in_words(proposal, points, options, removed)
    else:
        text = "The unpruned model detects nothing on these images (mAP50-95 0): there is no accuracy to keep"
    data = {
        "by": options.by,
        "tolerance": options.tolerance,
        "cliff": [point.ratio for point in cliff] if cliff else None,
        "proposal": proposal.ratio if proposal else None,
        "text": text,
    }
    return data, text


def _cliff_in_words(cliff: tuple[Point, Point] | None, removed: str) -> str:
    if cliff is None:
        return (
            f"No cliff: mAP50-95 nowhere falls by {CLIFF:.0%} of the whole model's within a ratio of {CLIFF / STEEP:g}"
        )
    above, below = cliff
    return (
        f"The cliff: mAP50-95 falls from {above.map:.3f} to {below.map:.3f} "
        f"between {above.ratio:.1%} and {below.ratio:.1%} of the {removed}"
    )


def _proposal_in_words(proposal: Point | None, points: Sequence[Point], options: SweepOptions, removed: str) -> str:
    if proposal is None:
        return (
            f"Proposed: none; already the smallest ratio, {points[1].ratio:.1%}, loses more than "
            f"{options.tolerance:.0%}. Train sparsely first, or sweep smaller ratios"
        )
    return (
        f"Proposed: remove {proposal.ratio:.1%} of the {removed}, which leaves mAP50-95 {proposal.map:.3f} "
        f"of {points[0].map:.3f} without training"
    )


def sweep_run(options: SweepOptions) -> Path:
    """Sweep, draw, propose; returns the run folder."""
    sweep = Sweep(options, "sweep")
    with held_folder(sweep.folder), advising(same_command):
        points = sweep.run()
        conclusion, text = conclude(points, sweep.options)
        sweep.publish(points, conclusion, text, table_rows, draw_sweep)
    ratio, recorded = conclusion["proposal"], sweep.inputs.recorded()
    if ratio is None:
        log_next(command_without_proposal(sweep.options, points, recorded))
    else:
        log_next(prune_command(sweep.options, ratio, sweep.folder, recorded))
    return sweep.folder
