"""The table and the picture of a sensitivity analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune_tools.report.pictures import DPI
from utils.drawing.charts import new_figure, save_figure


def table_rows(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The table as text, header first, then the most sensitive layers; ``points`` as in sensitivity.json."""
    whole = next(point for point in points if not point["layer"])
    rows: list[tuple[str, ...]] = [("layer", "removed", "params", "GFLOPs", "mAP50-95", "lost")]
    for point in sorted(points, key=lambda point: point["map"]):
        if point["layer"]:
            parameters = f"{point['parameters'] / whole['parameters'] - 1:+.1%}"
            operations = f"{point['gflops'] / whole['gflops'] - 1:+.1%}"
            lost = f"{whole['map'] - point['map']:.3f}"
            removed, accuracy = f"{point['ratio']:.0%}", f"{point['map']:.3f}"
            rows.append((point["layer"], removed, parameters, operations, accuracy, lost))
    return rows


def draw_sensitivity(points: Sequence[Mapping[str, Any]], conclusion: Mapping[str, Any], path: Path) -> None:
    """Draw a bar of the lost mAP50-95 for each layer and ratio; sensitive layers have a colour of their own."""
    whole = next(point for point in points if not point["layer"])
    ratios = sorted({point["ratio"] for point in points if point["layer"]})
    layers = list(dict.fromkeys(point["layer"] for point in points if point["layer"]))
    width = 0.8 / len(ratios)
    figure = new_figure(6.4, 1.2 + 0.2 * len(layers))
    axes = figure.subplots()
    for number, ratio in enumerate(ratios):
        lost = {point["layer"]: whole["map"] - point["map"] for point in points if point["ratio"] == ratio}
        measured = [layer for layer in layers if layer in lost]
        positions = [layers.index(layer) + (number - (len(ratios) - 1) / 2) * width for layer in measured]
        colors = ["#fc8d62" if layer in conclusion.get("sensitive", ()) else "#8da0cb" for layer in measured]
        bars = axes.barh(positions, [lost[layer] for layer in measured], width * 0.9, color=colors)
        bars.set_label(f"{ratio:.0%} of the channels")
        for bar in bars:
            bar.set_alpha(0.45 + 0.55 * (number + 1) / len(ratios))
    limit = conclusion["tolerance"] * whole["map"]
    axes.axvline(limit, color="#444444", linestyle="--", linewidth=1, label="tolerance")
    axes.set_yticks(
        range(len(layers)), [layer.removeprefix("model.").removesuffix(".conv") for layer in layers], fontsize=8
    )
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel(f"mAP50-95 lost, of {whole['map']:.3f}, when the layer alone is pruned")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    save_figure(figure, path, DPI)
