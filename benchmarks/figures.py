"""What the benchmarks share: alternatives timed in turns, and the rows that they make."""

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
    """Seconds of each call of each alternative, which take turns so that a busy machine favours none.

    The first round warms up and is not counted. ``clock`` may be ``time.process_time`` where nothing waits and no other
    process works: it does not see what else the machine does.
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
    """One row of docs/BENCHMARKS.md: our figure beside that of the plain way, from one run.

    Attributes:
        subject: what was measured. unit: of ``ours`` and ``plain``, such as images/s or s. ours, plain: medians.
        ratio: by how much ours is better, the median over the rounds; above 1 is better. goal: the least ratio wanted.
        spread: half the distance between the quartiles of the ratios. note: what the plain way is.
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
    subject: str, ours: Sequence[float], plain: Sequence[float], goal: float | None = None, note: str = "",
    amount: float | None = None, unit: str = "s",
) -> Figure:  # fmt: skip
    """The figure of two alternatives timed in turns, each round giving one ratio.

    With ``amount`` (images of one call, say) the medians are given as amount per second in ``unit``.
    """
    ratios = [slow / fast for slow, fast in zip(plain, ours, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    our_figure, plain_figure = statistics.median(ours), statistics.median(plain)
    if amount is not None:
        our_figure, plain_figure = amount / our_figure, amount / plain_figure
    spread = (quartiles[2] - quartiles[0]) / 2
    return Figure(subject, unit, our_figure, plain_figure, statistics.median(ratios), spread, goal, note)


def as_table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| | ours | plain | ratio | wanted | plain is |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    for figure in figures:
        wanted = "" if figure.goal is None else f"{figure.goal:g}"
        lines.append(
            f"| {figure.subject} | {figure.ours:.4g} {figure.unit} | {figure.plain:.4g} {figure.unit} | "
            f"{figure.ratio:.2f} ± {figure.spread:.2f} | {wanted} | {figure.note} |"
        )
    return "\n".join(lines)
