"""The table that compares the models of a run, as text, CSV and picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prune_tools.planning.costs import IMAGE_SIZE
from utils.drawing.charts import new_figure, save_figure
from utils.model_info import count_parameters, gflops
from utils.storage.files import atomic_path


@dataclass
class Row:
    """One model of the table. Accuracy and time are None where they were not measured."""

    step: str
    precision: float | None
    recall: float | None
    map50: float | None
    map: float | None
    parameters: int
    gflops: float  # at IMAGE_SIZE
    milliseconds: float | None  # median for one image, batch 1
    weights: str


def row_of(
    step: str, model: nn.Module, metrics: Sequence[float | None], milliseconds: float | None, weights: str
) -> Row:
    """The row of a model with ``metrics`` (P, R, mAP50, mAP50-95, ...) of its validation, None where not measured."""
    precision, recall, map50, map_ = metrics[:4]
    operations = gflops(model, IMAGE_SIZE) or 0.0
    return Row(step, precision, recall, map50, map_, count_parameters(model), operations, milliseconds, weights)


def as_text(rows: Sequence[Row]) -> str:
    """The table as aligned text, also valid Markdown."""
    return aligned(cells(rows))


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The table as text, header first."""
    lines: list[tuple[str, ...]] = [
        ("step", "P", "R", "mAP50", "mAP50-95", "params", f"GFLOPs at {IMAGE_SIZE}", "ms / image")
    ]
    for row in rows:
        accuracy = (shown(value, ".3f") for value in (row.precision, row.recall, row.map50, row.map))
        lines.append((row.step, *accuracy, f"{row.parameters:,}", f"{row.gflops:.2f}", shown(row.milliseconds, ".1f")))
    return lines


def shown(value: float | None, form: str) -> str:
    """A figure as text, ``-`` where it was not measured."""
    return "-" if value is None else format(value, form)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table, header first, as Markdown with aligned columns."""
    lines = [lines[0], ["-" * len(name) for name in lines[0]], *lines[1:]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def tuning_verdict(rows: Sequence[Row]) -> str:
    """A sentence for fine-tuning that ended no better than it began by mAP50-95; '' for any other last step.

    ``rows`` are the steps in order; names of steps end with pruned and finetuned.
    """
    if len(rows) < 2 or not (rows[-2].step.endswith("pruned") and rows[-1].step.endswith("finetuned")):
        return ""
    before, after = rows[-2].map, rows[-1].map
    if before is None or after is None or after > before:
        return ""
    return (
        f"Fine-tuning did not help: mAP50-95 is {after:.3f}, and it was {before:.3f} right after pruning. Use "
        f"{rows[-2].weights}, or fine-tune for more epochs."
    )


def best_model(rows: Sequence[Row]) -> Row:
    """The row of the model to use: the last one, or the pruned one before it if fine-tuning did not help."""
    return rows[-2] if tuning_verdict(rows) else rows[-1]


def save_csv(rows: Sequence[Any], path: Path) -> None:
    """Write a line for each of these objects of a dataclass; the columns are named as its fields."""
    with atomic_path(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def save_picture(rows: Sequence[Any], path: Path) -> None:
    """Draw bars of measured rows: accuracy on the left; parameters, GFLOPs and time relative to the first row."""
    figure = new_figure(11, 4)
    accuracy, cost = figure.subplots(1, 2)
    _bars(accuracy, rows, {"mAP50": [row.map50 for row in rows], "mAP50-95": [row.map for row in rows]}, "{:.3f}")
    base = rows[0]
    relative = {
        "parameters": [row.parameters / base.parameters for row in rows],
        "GFLOPs": [row.gflops / base.gflops if base.gflops else 0 for row in rows],
        "time": [row.milliseconds / base.milliseconds for row in rows],
    }
    _bars(cost, rows, relative, "{:.2f}")
    accuracy.set_title("accuracy on the validation images")
    cost.set_title(f"cost relative to {base.step}")
    save_figure(figure, path, dpi=150)


def _bars(axes: Any, rows: Sequence[Row], series: dict[str, list[float]], number: str) -> None:
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        positions = [row + (index - (len(series) - 1) / 2) * width for row in range(len(rows))]
        bars = axes.bar(positions, values, width * 0.92, label=name)
        axes.bar_label(bars, [number.format(value) for value in values], fontsize=7, padding=1)
    axes.set_xticks(range(len(rows)), [row.step for row in rows])
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=len(series), loc="upper center")
