"""All figures of docs/BENCHMARKS.md, measured anew: ``python -m benchmarks`` or ``make bench``.

Drawn pictures and networks with random weights serve, so nothing needs to be downloaded. It takes about ten minutes on
two cores; a machine that does nothing else gives steadier figures.

    python -m benchmarks Loading Training    # only these sections; those that the page has of the others stay
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

from benchmarks import data, detection, gpu, pruning, scaling, start, training, validation
from benchmarks.figures import Figure, as_table
from utils.commands.cli import run_command
from utils.errors import InputError
from utils.log import LOGGER
from utils.resources import usable_cores
from utils.storage.files import ROOT, atomic_path

SECTIONS: dict[str, tuple[str, Callable[[], list[Figure]]]] = {
    "Start": ("python benchmarks/start.py", start.measure),
    "Loading": ("python benchmarks/data.py", data.measure),
    "Training": ("python benchmarks/training.py", training.measure),
    "Validation": ("python benchmarks/validation.py", validation.measure),
    "Detection": ("python benchmarks/detection.py", detection.measure),
    "Pruning": ("python benchmarks/pruning.py", pruning.measure),
    "Growth with the data set": ("python benchmarks/scaling.py", scaling.measure),
}
HEAD = """# Benchmarks

Written by `make bench`, all at once or section by section. "Plain" is the way of the column at the right, in the same
run; both take turns, and medians are given with half the distance between the quartiles of the ratios. A ratio below
the wanted one is a fault to look into. Load is the machine's mean over a quarter of an hour: above the number of cores
it was busy with other work, and then ratios of CPU time stay about right, but wall times do not.

{versions}

To repeat one section, run its command; `--help` shows how to take your own data, checkpoint and image size.
"""
NOT_MEASURED = """## Not measured

Of GPUs the section above is all that has been measured. Not looked at: several of them, `--compile` with Triton,
batches and image sizes other than those given there, other cards.
"""
BY_HAND = "Measured apart"  # a section that people write, of what takes longer or needs more than this does
SECTION = """## {title}

`{command}`, {day}, {minutes:.1f} minutes, load {load}

{table}
"""


def versions_page() -> str:
    """The head of docs/BENCHMARKS.md: the machine and the versions."""
    from prune_tools.report.report import versions

    known = {
        "commit": commit(),
        **versions(),
        "processor": f"{processor_model()}, {usable_cores()} cores",
        "system": platform.system(),
    }
    return HEAD.format(versions="\n".join(f"- {name}: {text}" for name, text in known.items()))


def commit() -> str:
    """The state of the code as git describes it, or 'unknown' outside a checkout or without git."""
    try:
        name, changed = (
            subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for command in (
                ("describe", "--always", "--exclude=*"),
                ("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs"),  # this page changes
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


def processor_model() -> str:
    """Return what the processor calls itself, or its kind where the system does not say."""
    try:
        model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    return model[1] if model else platform.processor() or platform.machine()


def section(title: str, figures: list[Figure], minutes: float) -> str:
    """One section of the page, with how busy the machine was in the last quarter of an hour."""
    load = f"{os.getloadavg()[2]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return SECTION.format(
        title=title, command=SECTIONS[title][0], day=date.today().isoformat(), minutes=minutes, load=load,
        table=as_table(figures),
    )  # fmt: skip


def write_page(page: Path, measured: dict[str, str]) -> None:
    """Write the head and all sections in order; BY_HAND, that of GPUs and those not ``measured`` stay as they are."""
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    known = {part.split("\n", 1)[0]: f"## {part}" for part in re.split(r"^## ", old, flags=re.MULTILINE)[1:]}
    titles = [*SECTIONS, BY_HAND, gpu.TITLE]
    parts = [versions_page(), *((known | measured).get(title, "") for title in titles), NOT_MEASURED]
    with atomic_path(page) as draft:
        draft.write_text("\n".join(part.rstrip("\n") + "\n" for part in parts if part), encoding="utf-8")


def main(titles: Sequence[str] = ()) -> None:
    """Measure these sections, or all, and write the page after each; what is missed is named."""
    unknown = [title for title in titles if title not in SECTIONS]
    if unknown:
        raise InputError(f"no section {unknown[0]!r}: expected {', '.join(map(repr, SECTIONS))}")
    missed = []
    for title in titles or SECTIONS:
        LOGGER.info(f"{title} ...")
        begin = time.perf_counter()
        figures = SECTIONS[title][1]()
        LOGGER.info("\n" + as_table(figures))
        write_page(ROOT / "docs/BENCHMARKS.md", {title: section(title, figures, (time.perf_counter() - begin) / 60)})
        missed += [figure for figure in figures if figure.goal is not None and figure.ratio < figure.goal]
    for figure in missed:
        LOGGER.warning(f"below what is wanted: {figure.subject}: {figure.ratio:.2f} instead of {figure.goal:g}")
    LOGGER.info(f"Results saved to {ROOT / 'docs/BENCHMARKS.md'}")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
