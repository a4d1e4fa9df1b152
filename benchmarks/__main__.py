"""All figures of docs/BENCHMARKS.md, measured anew: ``python -m benchmarks`` or ``make bench``.

Drawn pictures and networks with random weights serve, so nothing needs to be downloaded. It takes about ten minutes on
two cores; a machine that does nothing else gives steadier figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date

from benchmarks import data, detection, pruning, scaling, training, validation
from benchmarks.figures import Figure, as_table
from utils.cli import run_command
from utils.files import ROOT, atomic_path
from utils.log import LOGGER

SECTIONS: dict[str, tuple[str, Callable[[], list[Figure]]]] = {
    "Loading": ("python benchmarks/data.py", data.measure),
    "Training": ("python benchmarks/training.py", training.measure),
    "Validation": ("python benchmarks/validation.py", validation.measure),
    "Detection": ("python benchmarks/detection.py", detection.measure),
    "Pruning": ("python benchmarks/pruning.py", pruning.measure),
    "Growth with the data set": ("python benchmarks/scaling.py", scaling.measure),
}
HEAD = """# Benchmarks

Written by `make bench` on {day}, in {minutes:.0f} minutes. "Plain" is the way of the column at the right, in the same
run; both take turns, and medians are given with half the distance between the quartiles of the ratios. A ratio below
the wanted one is a fault to look into. On a busy machine ratios of CPU time stay about right, wall times do not.

{versions}

To repeat one section, run its command; `--help` shows how to take your own data, checkpoint and image size.
"""


def page(sections: dict[str, list[Figure]], minutes: float) -> str:
    """docs/BENCHMARKS.md: the machine, the versions, and a table for each section."""
    from prune_tools.report import versions

    known = "\n".join(f"- {name}: {text}" for name, text in versions().items())
    parts = [HEAD.format(day=date.today().isoformat(), minutes=minutes, versions=known)]
    for title, figures in sections.items():
        parts.append(f"## {title}\n\n`{SECTIONS[title][0]}`\n\n{as_table(figures)}\n")
    return "\n".join(parts)


def main() -> None:
    """Measure everything and write the page; what is missed is named."""
    start = time.perf_counter()
    sections: dict[str, list[Figure]] = {}
    for title, (_, measure) in SECTIONS.items():
        LOGGER.info(f"{title} ...")
        sections[title] = measure()
        LOGGER.info("\n" + as_table(sections[title]))
    with atomic_path(ROOT / "docs/BENCHMARKS.md") as draft:
        draft.write_text(page(sections, (time.perf_counter() - start) / 60), encoding="utf-8")
    for figure in (figure for figures in sections.values() for figure in figures):
        if figure.goal is not None and figure.ratio < figure.goal:
            LOGGER.warning(f"below what is wanted: {figure.subject}: {figure.ratio:.2f} instead of {figure.goal:g}")
    LOGGER.info(f"Results saved to {ROOT / 'docs/BENCHMARKS.md'}")


if __name__ == "__main__":
    run_command(main)
