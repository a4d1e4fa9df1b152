"""Lines of the table of benchmarks/latency.py, as Markdown, CSV and a plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from utils.drawing.charts import new_figure, save_figure
from utils.storage.files import atomic_path


@dataclass
class Cell:
    """One line of the table; figures that do not exist are None, and ``note`` says why.

    Attributes:
        imgsz: side in pixels. median, low, high: milliseconds per image, median and quartiles. ratio: median over the
            turns of the time divided by that of the first line of the same size, batch and threads. file_mib: size of
            the deployed files. memory_mib: peak of a process that runs them, libraries included. map50, map: on the
            data.
    """

    weights: str
    runtime: str
    imgsz: int
    batch: int
    threads: int
    median: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    file_mib: float | None = None
    memory_mib: float | None = None
    map50: float | None = None
    map: float | None = None
    note: str = ""


def as_table(cells: Sequence[Cell]) -> str:
    """Return the cells as a Markdown table."""
    lines = [
        "| weights | runtime | imgsz | batch | threads | ms/image (quartiles) | ratio | file MiB | memory MiB | mAP@.5 "
        "| mAP@.5:.95 | note |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    names = short_names(cells)
    for cell in cells:
        start = f"| {names[cell.weights]} | {cell.runtime} | {cell.imgsz} | {cell.batch} | {cell.threads} |"
        times = "" if cell.median is None else f"{cell.median:.2f} ({cell.low:.2f}-{cell.high:.2f})"
        figures = [times, _text(cell.ratio, 2), _text(cell.file_mib, 1), _text(cell.memory_mib, 0)]
        figures += [_text(cell.map50, 4), _text(cell.map, 4), cell.note.replace("|", "/")]
        lines.append(f"{start} {' | '.join(figures)} |")
    return "\n".join(lines)


def short_names(cells: Sequence[Cell]) -> dict[str, str]:
    """Return the names of the cells' weights: the file name, or the path where two files have the same name."""
    files = dict.fromkeys(cell.weights for cell in cells)
    names = [Path(file).name for file in files]
    return {file: name if names.count(name) == 1 else file for file, name in zip(files, names, strict=True)}


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def save(cells: Sequence[Cell], folder: Path) -> None:
    """Write latency.md, latency.csv and latency.png."""
    with atomic_path(folder / "latency.md") as draft:
        draft.write_text(as_table(cells) + "\n", encoding="utf-8")
    with atomic_path(folder / "latency.csv") as draft, open(draft, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [entry.name for entry in fields(Cell)])
        writer.writeheader()
        writer.writerows(asdict(cell) for cell in cells)
    timed = [cell for cell in cells if cell.median is not None]
    if timed:
        figure = new_figure(9, 1 + 0.3 * len(timed))
        axes = figure.add_subplot()
        names = short_names(cells)
        labels = [f"{names[c.weights]}, {c.runtime}, {c.imgsz} px, {c.batch} x, {c.threads} threads" for c in timed]
        medians = [cell.median or 0.0 for cell in timed]
        below = [(cell.median or 0) - (cell.low or 0) for cell in timed]
        above = [(cell.high or 0) - (cell.median or 0) for cell in timed]
        axes.barh(range(len(timed)), medians, xerr=[below, above])
        axes.set_yticks(range(len(timed)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("ms per image, median and quartiles")
        save_figure(figure, folder / "latency.png", dpi=150)
