#!/usr/bin/env python3
"""Which layers must not be pruned? Prune each layer alone, without training, and see what it costs.

    python prune_tools/sensitivity.py --weights runs/train/exp4/weights/best.pt --data data/mask.yaml --imgsz 320

Writes sensitivity.csv, sensitivity.json and sensitivity.png and prints a --skip list for sweep.py and prune.py. The
same command goes on where it was broken off.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.report.sensitivity_view import draw_sensitivity, table_rows
from prune_tools.survey.record import Point
from prune_tools.survey.survey import Survey, SurveyOptions
from utils.commands.cli import run_command, show_arguments
from utils.commands.interrupts import advising, same_command
from utils.commands.next_steps import following, log_next
from utils.commands.options import build, check_numbers, command_line, option, parse, to_dict
from utils.errors import InputError
from utils.storage.files import ROOT
from utils.storage.folder_lock import held_folder


@dataclass
class SensitivityOptions(SurveyOptions):
    """Options of sensitivity.py."""

    ratios: list[float] = option(
        [0.5],
        "shares of a layer's channels that are removed",
        nargs="+",
        type=float,
        at_least=0,
        at_most=1,
        handed_on=False,
    )
    tolerance: float = option(
        0.02,
        "protect layers that lose more than this share of the whole model's mAP50-95 at the smallest ratio",
        at_least=0,
        at_most=1,
        handed_on=False,
    )
    reconstruct: int = option(
        0,
        "training images on which the layers are re-fitted to the unpruned model; 0 = off",
        at_least=0,
        handed_on=False,
    )
    project: str = option(str(ROOT / "runs/sensitivity"), "folder of the runs", handed_on=False)
    name: str = option(
        "exp", "name of this run; continued if its options are the same, else exp2, exp3, ...", handed_on=False
    )

    def __post_init__(self) -> None:
        """Refuse values that no analysis can use, by name."""
        check_numbers(self)
        self.scope = self.scope or "all"
        ratios = [self.ratios] if isinstance(self.ratios, (int, float)) else self.ratios
        self.ratios = sorted({round(float(ratio), 4) for ratio in ratios})
        self.check_survey()
        if not self.ratios or not 0 < self.ratios[0] <= self.ratios[-1] < 1:
            raise InputError(f"--ratios are shares of a layer's channels between 0 and 1, got {self.ratios}")
        if not 0 < self.tolerance < 1:
            raise InputError(f"--tolerance must lie between 0 and 1, got {self.tolerance}")
        if self.runtime != "torch":
            raise InputError(f"--runtime {self.runtime}: no time is measured layer by layer, leave it out")


class Sensitivity(Survey):
    """A survey of each layer alone."""

    options: SensitivityOptions

    def run(self) -> list[Point]:
        """Measure what is not finished; returns the whole model's point and those of the wanted ratios."""
        from tqdm import tqdm

        from prune_tools.planning.plan import Plan, keep_largest

        tasks = [("", 0.0, Plan({}, limits=self.limits))]
        for ratio in self.options.ratios:
            for group in self.groups:
                count = self.limits.nearest(group.size, round(group.size * (1 - ratio)))
                kept = keep_largest(self.scores[group.name], count)
                if count < group.size:
                    tasks.append((group.name, ratio, Plan({group.name: kept}, ratio, limits=self.limits)))
        if len(tasks) == 1:
            raise InputError("nothing to analyse: the limits leave every layer whole at these ratios")
        with tqdm(tasks, desc="Layers", disable=None) as progress:
            for layer, ratio, plan in progress:
                if (layer, ratio) not in self.record.points:
                    point = self.measure(plan, ratio, layer, timed=False)
                    progress.set_postfix_str(f"{layer or 'whole model'}: mAP50-95 {point.map:.3f}")
        return [self.record.points[layer, ratio] for layer, ratio, _ in tasks]


def conclude(points: Sequence[Point], options: SensitivityOptions) -> tuple[dict[str, Any], str]:
    """The layers to protect, the most sensitive first, as data and in words. ``points[0]`` is the whole model."""
    whole, ratio = points[0].map, options.ratios[0]
    lost = {point.layer: whole - point.map for point in points[1:] if point.ratio == ratio}
    protected = [layer for layer in sorted(lost, key=lambda name: -lost[name])
                 if whole > 0 and lost[layer] > options.tolerance * whole]  # fmt: skip
    most = len(protected) > len(lost) / 2
    skip = list(dict.fromkeys(layer.split("#")[0] for layer in protected))  # a producer's groups have one path
    share = f"more than {options.tolerance:.0%} of the whole model's mAP50-95 ({whole:.3f})"
    if whole <= 0:
        text = "The whole model finds nothing on these images (mAP50-95 0): there is no accuracy to keep"
    elif protected:
        text = (f"{len(protected)} of {len(lost)} layers lose {share} when {ratio:.0%} of their channels go; "
                f"to protect them:\n--skip {' '.join(skip)}")  # fmt: skip
        text += "\nFor the same budget other layers then have to give more: compare sweeps with and without it"
        if most:
            text += f"\nThat is most of the network: repeat with --ratios {ratio / 2:.2g} to see which matter most"
    else:
        text = f"No layer loses {share} when {ratio:.0%} of its channels go: none needs protection"
    data = {"tolerance": options.tolerance, "ratio": ratio, "protected": protected, "skip": skip, "text": text,
            "repeat": float(f"{ratio / 2:.2g}") if most else None}  # fmt: skip
    return data, text


def sweep_command(options: SensitivityOptions, skip: Sequence[str]) -> str:
    """The command that sweeps the model with these layers protected."""
    from prune_tools.sweep import SweepOptions

    chosen: dict[str, Any] = {"skip": [*options.skip, *skip]} if options.skip or skip else {}
    return following("prune_tools/sweep.py", SweepOptions, options, exact=True, weights=options.weights, **chosen)


def next_commands(options: SensitivityOptions, conclusion: Mapping[str, Any]) -> list[str]:
    """The sweep with and without protection; where most layers would need it, the analysis with a smaller share."""
    if conclusion["repeat"]:
        values = to_dict(options) | {"ratios": [conclusion["repeat"]]}
        return [command_line("prune_tools/sensitivity.py", SensitivityOptions, values)]
    without = sweep_command(options, [])
    return [sweep_command(options, conclusion["skip"]), without] if conclusion["skip"] else [without]


def main(options: SensitivityOptions) -> Path:
    """Analyse, draw, print the layers to protect; returns the run folder."""
    show_arguments("sensitivity", options)
    survey = Sensitivity(options, "sensitivity")
    with held_folder(survey.folder), advising(same_command):
        points = survey.run()
        conclusion, text = conclude(points, options)
        survey.publish(points, conclusion, text, table_rows, draw_sensitivity)
    log_next(*next_commands(options, conclusion))
    return survey.folder


def run(**keywords: Any) -> Path:
    """The analysis from Python, the flags as keywords; returns the run folder."""
    return main(build(SensitivityOptions, **keywords))


if __name__ == "__main__":
    run_command(lambda: main(parse(SensitivityOptions, "Prune each layer alone and see which to protect.")))
