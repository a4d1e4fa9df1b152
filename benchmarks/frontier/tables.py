"""Tables and pictures, drawn from the results alone."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frontier.bootstrap import Difference, difference, draw_weights, mean_ap
from benchmarks.frontier.costs import SIZE
from benchmarks.frontier.matches import Matches
from benchmarks.frontier.methods import BASE_METHOD, METHODS
from benchmarks.frontier.results import Results
from benchmarks.frontier.tasks import FULL, Task
from benchmarks.frontier.timing import RUNTIMES
from prune_tools.report.table import aligned
from utils.drawing.charts import new_figure, save_figure
from utils.errors import InputError

COLUMNS = ("operations", "method", "params", "GFLOPs", "mAP50", "mAP50-95")
LAST_COLUMNS = ("cost", "seeds", "command")
ABSENT = "-"
MARKERS = "osD^vP*"  # with the ten colours of a chart, no two methods look alike


@dataclass
class Row:
    """One method at one budget: the cells of all seeds, and what they have reached on the reported split.

    Attributes:
        cells: in the order of their seeds.
        values: by seed, the results of the cells that are measured.
        accuracy: by seed, (mAP50, mAP50-95).
        resampled: by seed, (R,) mAP50-95 of resampled images.
    """

    cells: list[Task]
    values: dict[int, dict[str, Any]] = field(default_factory=dict)
    accuracy: dict[int, tuple[float, float]] = field(default_factory=dict)
    resampled: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method of all cells."""
        return self.cells[0].method

    @property
    def title(self) -> str:
        """The method in words."""
        return f"{self.method}: {METHODS[self.method].title}"

    def mean(self, name: str) -> float:
        """The mean of a figure over the seeds."""
        return statistics.fmean(value[name] for value in self.values.values())

    def milliseconds(self, runtime: str) -> float | None:
        """The time of the seed that was timed."""
        times = [value["milliseconds"].get(runtime) for value in self.values.values() if "milliseconds" in value]
        return times[0] if times else None

    def mixed(self, other: Row, share: float) -> Row:
        """Interpolate between this row and another, ``share`` of the way, for the seeds that both have."""
        result = Row(self.cells)
        for seed in self.values.keys() & other.values.keys():
            pairs = zip(self.accuracy[seed], other.accuracy[seed], strict=True)
            map50, map50_95 = ((1 - share) * own + share * more for own, more in pairs)
            result.accuracy[seed] = map50, map50_95
            result.resampled[seed] = (1 - share) * self.resampled[seed] + share * other.resampled[seed]
        return result

    @property
    def is_missing(self) -> bool:
        """Tell whether no seed has figures."""
        return not self.values

    def spread(self, column: int) -> tuple[float, float | None]:
        """Mean and standard deviation over the seeds of mAP50 (0) or mAP50-95 (1), in percent; one seed has none."""
        values = [100 * figures[column] for figures in self.accuracy.values()]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    def minus(self, reference: Row | None) -> Difference | None:
        """mAP50-95 minus that of another row, over the seeds that both have, in percent; None without any."""
        if reference is None or self is reference:
            return None
        seeds = sorted(self.accuracy.keys() & reference.accuracy.keys())
        if not seeds:
            return None
        mean = statistics.fmean(self.accuracy[seed][1] - reference.accuracy[seed][1] for seed in seeds)
        gap = difference([self.resampled[seed] for seed in seeds], [reference.resampled[seed] for seed in seeds], mean)
        return Difference(100 * gap.mean, 100 * gap.low, 100 * gap.high)


class Table:
    """The rows of one data set with or without teacher.

    Attributes:
        data, teacher: of all its cells.
        split: that the figures are of, and ``images``, the number of its images.
        rows: by budget and method.
    """

    def __init__(self, results: Results, data: str, teacher: str, split: str, reference: str) -> None:
        """Compute the figures. ``split`` is val, test or val+test; where a set has no test, val is taken."""
        self.results, self.data, self.teacher, self.reference = results, data, teacher, reference
        own = [cell for cell in results.cells if (cell.data, cell.teacher) == (data, teacher)]
        own.sort(key=lambda cell: (-cell.budget, list(METHODS).index(cell.method), cell.seed))
        has_test = any("test" in results.cells[cell].get("matches", {}) for cell in own)
        self.split = split if has_test else "val"
        self.images: list[str] = []
        self.rows: dict[tuple[float, str], Row] = {}
        for cell in own:
            row = self.rows.setdefault((cell.budget, cell.method), Row([]))
            row.cells.append(cell)
            if results.is_measured(cell):
                self._add(row, cell)

    def _add(self, row: Row, cell: Task) -> None:
        """Compute the figures of one cell."""
        values = self.results.cells[cell]
        parts = [Matches.from_text(values["matches"][split]) for split in self.split.split("+")]
        matches = parts[0] if len(parts) == 1 else parts[0].joined(parts[1])
        images = [str(name) for name in matches.images]
        self.images = self.images or images
        if images != self.images:
            raise InputError(
                f"{cell.name} was measured on other images of {self.split} than the cells before it: delete its folder "
                "and run the same command again"
            )
        row.values[cell.seed] = values
        map50, map50_95 = mean_ap(matches, np.ones((1, len(images)), int))[0]
        row.accuracy[cell.seed] = float(map50), float(map50_95)
        row.resampled[cell.seed] = mean_ap(matches, _weights(len(images)))[:, 1]

    def as_text(self) -> str:
        """Title, table and the reasons of what is missing, as Markdown."""
        teacher = "the base teaches every method" if self.teacher == "all" else "no method has a teacher"
        pixels = self.results.identity.get(f"imgsz of {self.data}")
        title = f"## {self.data} at {pixels} pixels, {teacher}: {len(self.images)} images of {self.split}"
        head = (
            *COLUMNS,
            f"from {self.reference}",
            f"from {BASE_METHOD}",
            f"from {self.reference}, same time",
            *(f"ms, {runtime}" for runtime in RUNTIMES),
            *LAST_COLUMNS,
        )
        lines = [head, *(self._line(row, len(head)) for row in self.rows.values())]
        missing = [
            f"* {cell.name}: {self.results.cells[cell]['problem']}"
            for row in self.rows.values()
            for cell in row.cells
            if cell.seed not in row.values
        ]
        reasons = ["Missing:\n\n" + "\n".join(missing)] if missing else []
        return "\n\n".join([title, aligned(lines), *reasons])

    def _line(self, row: Row, width: int) -> tuple[str, ...]:
        """One line of ``width`` columns."""
        budget = row.cells[0].budget
        whole = budget == FULL
        first = ("100%" if whole else f"{budget - 1:+.0%}", row.title)
        command = f"--methods {row.method}" + ("" if whole else f" --budgets {budget:g}")
        last = (f"{len(row.values)} of {len(row.cells)}", command)
        if row.is_missing:
            return (*first, *["missing"] * (width - len(first) - len(last)), *last)
        return (
            *first,
            f"{row.mean('parameters') / 1e6:.3f} M",
            f"{row.mean('gflops'):.2f}",
            *(_with_deviation(*row.spread(column)) for column in (0, 1)),
            _shown(row.minus(self.rows.get((budget, self.reference)))),
            _shown(row.minus(self.rows.get((FULL, BASE_METHOD)))),
            _shown(row.minus(self._reference_as_fast_as(row))),
            *(_time(row.milliseconds(runtime)) for runtime in RUNTIMES),
            f"{row.mean('cost'):.1f}",
            *last,
        )

    def _reference_as_fast_as(self, row: Row) -> Row | None:
        """The reference at the time of ``row`` in the first runtime, between its budgets on either side.

        The base is the largest budget. None where either was not timed, and where the reference is never as fast, or
        as slow.
        """
        milliseconds = row.milliseconds(RUNTIMES[0])
        if milliseconds is None or row.method in (self.reference, BASE_METHOD):
            return None
        curve = [each for each in self.rows.values() if each.method in (self.reference, BASE_METHOD)]
        timed = [(time, each) for each in curve if (time := each.milliseconds(RUNTIMES[0])) is not None]
        for (fast, smaller), (slow, larger) in pairwise(sorted(timed, key=lambda point: point[0])):
            if fast <= milliseconds <= slow and fast < slow:
                return smaller.mixed(larger, (milliseconds - fast) / (slow - fast))
        return None

    def draw(self, path: Path) -> None:
        """Draw mAP50-95 over GFLOPs: a line for each method, with the standard deviation over the seeds."""
        figure = new_figure(8, 5)
        axes = figure.subplots()
        for number, method in enumerate(dict.fromkeys(name for _, name in self.rows)):
            rows = [row for row in self.rows.values() if row.method == method and not row.is_missing]
            points = sorted((row.mean("gflops"), *row.spread(1)) for row in rows)
            if points:
                operations, accuracy, deviations = zip(*points, strict=True)
                errors = [deviation or 0.0 for deviation in deviations]
                marker = MARKERS[number % len(MARKERS)]
                axes.errorbar(operations, accuracy, errors, marker=marker, capsize=3, label=rows[0].title)
        axes.set_xlabel(f"GFLOPs at {SIZE} pixels")
        axes.set_ylabel("mAP50-95, percent")
        axes.set_title(f"{self.data}, {self.split}, teacher: {self.teacher}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
        save_figure(figure, path, dpi=150)


@cache
def _weights(images: int) -> np.ndarray:
    """The same resamples for all cells of a data set."""
    return draw_weights(images)


def _with_deviation(mean: float, deviation: float | None) -> str:
    """Mean and standard deviation as text."""
    return f"{mean:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def _time(milliseconds: float | None) -> str:
    """A time as text."""
    return ABSENT if milliseconds is None else f"{milliseconds:.1f}"


def _shown(gap: Difference | None) -> str:
    """A difference with its interval; bold if the interval excludes 0."""
    if gap is None:
        return ABSENT
    text = f"{gap.mean:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]"
    return f"**{text}**" if gap.is_certain else text


def tables_of(results: Results, split: str, reference: str) -> list[Table]:
    """A table for each data set, and for each choice of teacher."""
    pairs = dict.fromkeys((cell.data, cell.teacher) for cell in results.cells)
    return [Table(results, data, teacher, split, reference) for data, teacher in pairs]
