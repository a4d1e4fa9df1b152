"""The work of sensitivity.py: measure each layer alone, name the sensitive ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
from utils.errors import InputError
from utils.storage.folder_lock import held_folder

SHOWN = 5  # sensitive layers that the log names; sensitivity.csv has all


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
    """The sensitive layers, the most sensitive first, as data and in words. ``points[0]`` is the whole model.

    None is proposed for --skip: protecting layers has made pruning to a budget worse wherever it was measured.
    """
    whole, ratio = points[0].map, options.ratios[0]
    lost = {point.layer: whole - point.map for point in points[1:] if point.ratio == ratio}
    beyond = [layer for layer in lost if whole > 0 and lost[layer] > options.tolerance * whole]
    sensitive = sorted(beyond, key=lambda layer: -lost[layer])
    share = f"more than {options.tolerance:.0%} of the whole model's mAP50-95 ({whole:.3f})"
    if whole <= 0:
        text = "The unpruned model detects nothing on these images (mAP50-95 0): there is no accuracy to keep"
    elif not sensitive:
        text = f"No layer loses {share} when {ratio:.0%} of its channels are removed: none is sensitive"
    else:
        shown = ", ".join(f"{layer} ({lost[layer]:.3f})" for layer in sensitive[:SHOWN])
        text = (
            f"{len(sensitive)} of {len(lost)} layers lose {share} when {ratio:.0%} of their channels are removed; the "
            f"most sensitive: {shown}\nNone is proposed for --skip: the other layers would have to give what a "
            "protected one does not, which has cost more accuracy where it was measured (docs/PRUNING.md); compare "
            "sweeps with and without it if you want to protect one"
        )
    return {"tolerance": options.tolerance, "ratio": ratio, "sensitive": sensitive, "text": text}, text


def sweep_command(options: SensitivityOptions, recorded: Collection[str] = ()) -> str:
    """The command that sweeps the model with the same options; ``recorded`` as in ``next_steps.following``."""
    return following(
        "prune_tools/sweep.py", SweepOptions, options, exact=True, recorded=recorded, weights=options.weights
    )


def sensitivity_run(options: SensitivityOptions) -> Path:
    """Analyse, draw, print the sensitive layers; returns the run folder."""
    survey = Sensitivity(options, "sensitivity")
    with held_folder(survey.folder), advising(same_command):
        points = survey.run()
        conclusion, text = conclude(points, survey.options)
        survey.publish(points, conclusion, text, table_rows, draw_sensitivity)
    log_next(sweep_command(survey.options, survey.inputs.recorded()))
    return survey.folder
