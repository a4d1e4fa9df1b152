#!/usr/bin/env python3
"""How far can this model be pruned? Prune at many ratios without training, and see where accuracy falls.

    python prune_tools/sweep.py --weights runs/train/exp4/weights/best.pt --data data/mask.yaml --imgsz 320
    python prune_tools/sweep.py --weights best.pt --data data/mask.yaml --by flops --ratios 0.3 0.4 0.5 --images 200

Writes sweep.csv, sweep.json and sweep.png. The same command goes on where it was broken off; further ratios join those
that are finished.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.planning.options import DEFAULT_ROUNDING
from prune_tools.report.sweep_view import LABELS, draw_sweep, table_rows
from prune_tools.survey.record import Point
from prune_tools.survey.survey import Survey, SurveyOptions
from utils.commands.cli import run_command, show_arguments
from utils.commands.interrupts import advising, same_command
from utils.commands.next_steps import following, log_next
from utils.commands.options import build, check_numbers, option, parse
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.storage.folder_lock import held_folder

CLIFF = 0.1  # of the whole model's mAP50-95: a smaller fall is no cliff, however steep
STEEP = 2.0  # of the whole model's mAP50-95 per whole ratio: a tenth lost within 0.05
FLAGS = {"channels": "percent", "params": "target_params", "flops": "target_flops"}


@dataclass
class SweepOptions(SurveyOptions):
    """Options of sweep.py."""

    ratios: list[float] = option(
        [20],
        "how many ratios from 0 to --largest, evenly spaced; or the ratios themselves",
        nargs="+",
        type=float,
        at_least=0,
        at_most=1000,
        handed_on=False,
    )
    largest: float = option(0.95, "the largest ratio when --ratios is a number of ratios", at_least=0, at_most=1)
    by: str = option("channels", "what is removed in these ratios", choices=list(FLAGS))
    tolerance: float = option(
        0.05,
        "the proposed ratio loses at most this share of the whole model's mAP50-95",
        at_least=0,
        at_most=1,
        handed_on=False,
    )
    project: str = option(str(ROOT / "runs/sweep"), "folder of the runs", handed_on=False)
    name: str = option(
        "exp", "name of this run; continued if its options are the same, else exp2, exp3, ...", handed_on=False
    )

    def __post_init__(self) -> None:
        """Refuse values that no sweep can use, by name."""
        check_numbers(self)
        self.scope = self.scope or ("seed" if self.by == "channels" else "all")
        if self.round_to is None and self.by != "channels":
            self.round_to = DEFAULT_ROUNDING
        self.ratios = [self.ratios] if isinstance(self.ratios, (int, float)) else list(self.ratios)
        self.check_survey()
        for name in ("largest", "tolerance"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"--{name} must lie between 0 and 1, got {getattr(self, name)}")
        self.grid()

    def grid(self) -> list[float]:
        """The ratios, ascending, 0 first. Raises InputError when there is nothing to sweep."""
        first = self.ratios[0] if self.ratios else 0.0
        if len(self.ratios) == 1 and (first >= 1 or first <= 0):
            if first != int(first) or first < 2:
                raise InputError(f"--ratios {first:g} leaves nothing to sweep: give 2 or more, or ratios such as 0.3")
            step = self.largest / (int(first) - 1)
            return [round(step * index, 4) for index in range(int(first))]
        wrong = [ratio for ratio in self.ratios if not 0 <= ratio < 1]
        if wrong or not any(self.ratios):
            raise InputError(f"--ratios are numbers of at least 0 and below 1, one of them above 0, got {self.ratios}")
        return sorted({0.0, *(round(float(ratio), 4) for ratio in self.ratios)})


def find_cliff(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """The two points between which mAP50-95 falls most steeply, by at least CLIFF; None if it is nowhere STEEP.

    ``points`` are by ratio; the first is the whole model. Closer points narrow a cliff down and do not hide it: the two
    need not be neighbours.
    """
    whole = points[0].map

    def steepness(pair: tuple[Point, Point]) -> float:
        return (pair[0].map - pair[1].map) / (pair[1].ratio - pair[0].ratio)

    falls = [pair for pair in combinations(points, 2) if pair[0].map - pair[1].map >= CLIFF * whole > 0]
    steepest = max(falls, key=steepness, default=None)
    return steepest if steepest is not None and steepness(steepest) >= STEEP * whole * (1 - 1e-9) else None


def propose(points: Sequence[Point], tolerance: float) -> Point | None:
    """The largest ratio that, as all below it, loses at most ``tolerance`` of the whole model's mAP50-95."""
    chosen = None
    for point in points[1:]:
        if point.map < (1 - tolerance) * points[0].map:
            break
        chosen = point
    return chosen


class Sweep(Survey):
    """A survey over ratios that all layers share."""

    options: SweepOptions

    def plan(self, ratio: float) -> Any:
        """The plan that removes ``ratio``. Raises InputError when the limits do not allow so much."""
        from prune_tools.planning.plan import Plan, plan_by_percent
        from prune_tools.planning.targets import Target, TargetPlanner

        if ratio == 0:
            return Plan({}, limits=self.limits)
        if self.options.by == "channels":
            return plan_by_percent(self.groups, self.scores, ratio, self.limits)
        planner = TargetPlanner(self.groups, self.scores, self.costs, self.limits)
        return planner.plan(Target(self.options.by, 1 - ratio, relative=True))

    def run(self) -> list[Point]:
        """Measure what is not finished; returns the points of the wanted ratios and all that were measured before."""
        from tqdm import tqdm

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


def prune_command(options: SweepOptions, ratio: float, folder: Path) -> str:
    """The command that prunes at ``ratio`` as the sweep did."""
    from prune_tools.options import PruneOptions

    wanted = ratio if options.by == "channels" else f"{1 - ratio:.4g}"
    chosen: dict[str, Any] = {FLAGS[options.by]: wanted, "sweep": str(folder)}
    return following("prune_tools/prune.py", PruneOptions, options, exact=True, weights=options.weights, **chosen)


def command_without_proposal(options: SweepOptions, points: Sequence[Point]) -> str:
    """Sparse training, so that there is something to prune; for a model that finds nothing, validation."""
    from prune_tools.train_sparity import SparseOptions
    from val import ValOptions

    weights = options.weights[0]
    if points[0].map <= 0:
        return following("val.py", ValOptions, options, weights=weights)
    return following(
        "prune_tools/train_sparity.py", SparseOptions, options, weights=weights, penalty="polarize",
        target_flops="0.5", teacher=weights,
    )  # fmt: skip


def conclude(points: Sequence[Point], options: SweepOptions) -> tuple[dict[str, Any], str]:
    """Cliff and proposal as data and in words."""
    cliff, proposal = find_cliff(points), propose(points, options.tolerance)
    what = LABELS[options.by]
    lines = []
    if points[0].map <= 0:
        lines.append("The whole model finds nothing on these images (mAP50-95 0): there is no accuracy to keep")
    elif cliff is None:
        lines.append(
            f"No cliff: mAP50-95 nowhere falls by {CLIFF:.0%} of the whole model's within a ratio of {CLIFF / STEEP:g}"
        )
    else:
        lines.append(f"The cliff: mAP50-95 falls from {cliff[0].map:.3f} to {cliff[1].map:.3f} "
                     f"between {cliff[0].ratio:.1%} and {cliff[1].ratio:.1%} of the {what}")  # fmt: skip
    if proposal is not None and points[0].map > 0:
        lines.append(f"Proposed: remove {proposal.ratio:.1%} of the {what}, which leaves mAP50-95 {proposal.map:.3f} "
                     f"of {points[0].map:.3f} without training")  # fmt: skip
    else:
        proposal = None
    if proposal is None and points[0].map > 0:
        lines.append(f"Proposed: none; already the smallest ratio, {points[1].ratio:.1%}, loses more than "
                     f"{options.tolerance:.0%}. Train sparsely first, or sweep smaller ratios")  # fmt: skip
    text = "\n".join(lines)
    data = {
        "by": options.by,
        "tolerance": options.tolerance,
        "cliff": [point.ratio for point in cliff] if cliff else None,
        "proposal": proposal.ratio if proposal else None,
        "text": text,
    }
    return data, text


def main(options: SweepOptions) -> Path:
    """Sweep, draw, propose; returns the run folder."""
    show_arguments("sweep", options)
    sweep = Sweep(options, "sweep")
    with held_folder(sweep.folder), advising(same_command):
        points = sweep.run()
        conclusion, text = conclude(points, options)
        sweep.publish(points, conclusion, text, table_rows, draw_sweep)
    ratio = conclusion["proposal"]
    if ratio is None:
        log_next(command_without_proposal(options, points))
    else:
        log_next(prune_command(options, ratio, sweep.folder))
    return sweep.folder


def run(**keywords: Any) -> Path:
    """The sweep from Python, the flags as keywords; returns the run folder."""
    return main(build(SweepOptions, **keywords))


if __name__ == "__main__":
    run_command(lambda: main(parse(SweepOptions, "Prune at many ratios without training and see what it costs.")))
