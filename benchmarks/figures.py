"""Timing of alternatives in turns, and the rows of docs/BENCHMARKS.md made from it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Clock = Callable[[], float]
GPU_TITLE = "On a GPU"  # of the section of docs/BENCHMARKS.md that benchmarks/gpu.py writes


def in_turns(
    alternatives: Mapping[str, Callable[[], object]], repetitions: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of each call of each alternative, called in turns so that load affects all alike.

    The first round warms up and is not counted. Pass ``time.process_time`` as ``clock`` where all work is done by this
    process and nothing waits: other processes then make no difference.
    """
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for repetition in range(repetitions + 1):
        for name, call in alternatives.items():
            start = clock()
            call()
            if repetition:
                seconds[name].append(clock() - start)
    return seconds


@dataclass(frozen=True)
class Figure:
    """One row of docs/BENCHMARKS.md: our figure and that of the plain way, from one run.

    Attributes:
        subject: what was measured. unit: of ``ours`` and ``plain``, such as images/s or s. ours, plain: medians.
        ratio: median over the rounds of how many times better ours is; above 1 is better. goal: lowest ratio wanted.
        spread: half the interquartile range of the ratios. note: what the plain way is.
    """

    subject: str
    unit: str
    ours: float
    plain: float
    ratio: float
    spread: float = 0.0
    goal: float | None = None
    note: str = ""


def compare_seconds(
    subject: str,
    ours: Sequence[float],
    plain: Sequence[float],
    goal: float | None = None,
    note: str = "",
    amount: float | None = None,
    unit: str = "s",
) -> Figure:
    """Return the figure of two alternatives timed in turns; each round gives one ratio.

    With ``amount``, such as the images of one call, the medians are amounts per second in ``unit``.
    """
    ratios = [slow / fast for slow, fast in zip(plain, ours, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    our_figure = statistics.median(ours)
    plain_figure = statistics.median(plain)
    if amount is not None:
        our_figure = amount / our_figure
        plain_figure = amount / plain_figure
    spread = (quartiles[2] - quartiles[0]) / 2
    return Figure(subject, unit, our_figure, plain_figure, statistics.median(ratios), spread, goal, note)


def as_table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| | ours | plain | ratio | goal | plain is |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    for figure in figures:
        goal = "" if figure.goal is None else f"{figure.goal:g}"
        lines.append(
            f"| {figure.subject} | {figure.ours:.4g} {figure.unit} | {figure.plain:.4g} {figure.unit} | "
            f"{figure.ratio:.2f} ± {figure.spread:.2f} | {goal} | {figure.note} |"
        )
    return "\n".join(lines)
