"""The work of sensitivity.py: measure each layer alone, name those to protect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prune_tools.planning.plan import Plan, keep_largest
from prune_tools.report.sensitivity_view import draw_sensitivity, table_rows
from prune_tools.survey.options import SensitivityOptions, SweepOptions
from prune_tools.survey.record import Point
from prune_tools.survey.survey import Survey
from utils.commands.interrupts import advising, same_command
from utils.commands.next_steps import following, log_next
from utils.commands.options import command_line, to_dict
from utils.errors import InputError
from utils.storage.folder_lock import held_folder


class Sensitivity(Survey[SensitivityOptions]):
    """A survey of each layer alone."""

    def run(self) -> list[Point]:
        """Measure the layers that are not finished; returns the whole model's point and those of the given ratios."""
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
    sensitive = [layer for layer in lost if whole > 0 and lost[layer] > options.tolerance * whole]
    protected = sorted(sensitive, key=lambda layer: -lost[layer])
    is_most = len(protected) > len(lost) / 2
    skip = list(dict.fromkeys(layer.split("#")[0] for layer in protected))  # the groups of a producer share its path
    share = f"more than {options.tolerance:.0%} of the whole model's mAP50-95 ({whole:.3f})"
    if whole <= 0:
        text = "The unpruned model detects nothing on these images (mAP50-95 0): there is no accuracy to keep"
    elif not protected:
        text = f"No layer loses {share} when {ratio:.0%} of its channels are removed: none needs protection"
    else:
        text = (
            f"{len(protected)} of {len(lost)} layers lose {share} when {ratio:.0%} of their channels are removed; to "
            f"protect them:\n--skip {' '.join(skip)}"
            "\nFor the same budget other layers then lose more: compare sweeps with and without it"
        )
        if is_most:
            text += f"\nThat is most of the network: repeat with --ratios {ratio / 2:.2g} to see which matter most"
    data = {
        "tolerance": options.tolerance,
        "ratio": ratio,
        "protected": protected,
        "skip": skip,
        "text": text,
        "repeat": float(f"{ratio / 2:.2g}") if is_most else None,
    }
    return data, text


def sweep_command(options: SensitivityOptions, skip: Sequence[str]) -> str:
    """The command that sweeps the model with these layers protected."""
    more: dict[str, Any] = {"skip": [*options.skip, *skip]} if options.skip or skip else {}
    return following("prune_tools/sweep.py", SweepOptions, options, exact=True, weights=options.weights, **more)


def next_commands(options: SensitivityOptions, conclusion: Mapping[str, Any]) -> list[str]:
    """The sweep with and without protection; where most layers would need it, the analysis with a smaller share."""
    if conclusion["repeat"]:
        values = to_dict(options) | {"ratios": [conclusion["repeat"]]}
        return [command_line("prune_tools/sensitivity.py", SensitivityOptions, values)]
    without = sweep_command(options, [])
    return [sweep_command(options, conclusion["skip"]), without] if conclusion["skip"] else [without]


def sensitivity_run(options: SensitivityOptions) -> Path:
    """Analyse, draw, print the layers to protect; returns the run folder."""
    survey = Sensitivity(options, "sensitivity")
    with held_folder(survey.folder), advising(same_command):
        points = survey.run()
        conclusion, text = conclude(points, survey.options)
        survey.publish(points, conclusion, text, table_rows, draw_sensitivity)
    log_next(*next_commands(survey.options, conclusion))
    return survey.folder
