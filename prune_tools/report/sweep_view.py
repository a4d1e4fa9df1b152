"""The table and the picture of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune_tools.report.pictures import DPI, finish
from utils.drawing.charts import new_figure, save_figure

LABELS = {"channels": "prunable channels", "params": "parameters", "flops": "operations"}


def table_rows(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The table of a sweep as text, header first; ``points`` as in sweep.json."""
    rows: list[tuple[str, ...]] = [("removed", "params", "GFLOPs", "ms / image", "time", "mAP50", "mAP50-95")]
    for point in points:
        costs = (f"{point['parameters']:,}", f"{point['gflops']:.2f}")
        times = (f"{point['milliseconds']:.1f}", f"{point['relative_time']:.0%}")
        rows.append((f"{point['ratio']:.1%}", *costs, *times, f"{point['map50']:.3f}", f"{point['map']:.3f}"))
    return rows


def draw_sweep(points: Sequence[Mapping[str, Any]], conclusion: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy (above) and costs relative to the whole model (below) over the ratio; mark cliff and proposal."""
    figure = new_figure(6.4, 6.4)
    accuracy, cost = figure.subplots(2, 1, sharex=True)
    ratios = [100 * point["ratio"] for point in points]
    for name, label in (("map50", "mAP50"), ("map", "mAP50-95")):
        accuracy.plot(ratios, [point[name] for point in points], marker=".", label=label)
    for name, label in (("parameters", "parameters"), ("gflops", "GFLOPs"), ("milliseconds", "time per image")):
        values = [
            point["relative_time"] if name == "milliseconds" else point[name] / points[0][name] for point in points
        ]
        cost.plot(ratios, values, marker=".", label=label)
    for axes in (accuracy, cost):
        if conclusion["cliff"]:
            start, end = conclusion["cliff"]
            axes.axvspan(100 * start, 100 * end, color="#fc8d62", alpha=0.3, label="cliff")
        if conclusion["proposal"]:
            axes.axvline(100 * conclusion["proposal"], color="#1b9e77", linestyle="--", label="proposed")
        axes.set_ylim(bottom=0)
        finish(axes)
    accuracy.set_ylabel("accuracy, no training")
    cost.set(xlabel=f"% of the {LABELS[conclusion['by']]} removed", ylabel="share of the whole model")
    save_figure(figure, path, DPI)
