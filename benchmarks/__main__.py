"""Measure the figures of docs/BENCHMARKS.md and write the page: ``python -m benchmarks`` or ``make bench``.

Drawn pictures and networks with random weights are used, so nothing is downloaded. It takes about eight minutes on two
cores; the figures are steadier on an idle machine.

    python -m benchmarks Loading Training    # only these sections; the page keeps what it has of the others
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from datetime import date
from importlib import import_module
from pathlib import Path

from benchmarks.figures import GPU_TITLE, Figure, as_table
from utils.commands.cli import run_command
from utils.errors import InputError
from utils.log import LOGGER
from utils.resources import usable_cores
from utils.storage.files import ROOT, atomic_path

# Title of each measured section: its module in benchmarks/, whose ``measure()`` returns the figures
SECTIONS = {"Loading": "data", "Training": "training", "Validation": "validation", "Pruning": "pruning"}
HEAD = """# Benchmarks

[中文](zh-CN/BENCHMARKS.md)

Written by `make bench`, all at once or section by section. "Plain" is the alternative in the column on the right. Both
are timed in alternation in one run; the figures are medians, the spread is half the interquartile range of the ratios.
A ratio below its goal is a fault to investigate. Load is the machine's mean over a quarter of an hour. Above the
number of cores, other processes were running: ratios of CPU time then remain about right, wall times do not.

{versions}

To repeat one section, run its command; `--help` shows how to take your own data, checkpoint and image size.
"""
NOT_MEASURED = """## Not measured

On GPUs, only the section above has been measured. Not measured: several GPUs, `--compile` with Triton, other batch and
image sizes, other cards.
"""
BY_HAND = "Measured once"  # a section written by people: what takes longer, or needs more, than this command
SECTION = """## {title}

`python benchmarks/{module}.py`, {day}, {minutes:.1f} minutes, load {load}

{table}
"""


def versions_page() -> str:
    """Return the head of docs/BENCHMARKS.md: the machine and the versions."""
    from prune_tools.report.report import versions

    known = {
        "commit": commit(),
        **versions(),
        "processor": f"{processor_model()}, {usable_cores()} cores",
        "system": platform.system(),
    }
    return HEAD.format(versions="\n".join(f"- {name}: {text}" for name, text in known.items()))


def commit() -> str:
    """Return the state of the code as git describes it, or 'unknown' outside a checkout or without git."""
    try:
        name = _git("describe", "--always", "--exclude=*")
        # docs/ is left out: the page itself changes
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def processor_model() -> str:
    """Return the processor's model name, or its architecture where the system does not report one."""
    try:
        model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    return model[1] if model else platform.processor() or platform.machine()


def section(title: str, figures: list[Figure], minutes: float) -> str:
    """Return one section of the page, with the machine's load over the last quarter of an hour."""
    load = f"{os.getloadavg()[2]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    day, table = date.today().isoformat(), as_table(figures)
    return SECTION.format(title=title, module=SECTIONS[title], day=day, minutes=minutes, load=load, table=table)


def write_page(page: Path, measured: dict[str, str]) -> None:
    """Write the head and all sections in order; those that are not in ``measured`` stay as they are."""
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    sections = {part.split("\n", 1)[0]: f"## {part}" for part in re.split(r"^## ", old, flags=re.MULTILINE)[1:]}
    sections |= measured
    parts = [versions_page()]
    parts += [sections.get(title, "") for title in (*SECTIONS, BY_HAND, GPU_TITLE)]
    parts.append(NOT_MEASURED)
    with atomic_path(page) as draft:
        draft.write_text("\n".join(part.rstrip("\n") + "\n" for part in parts if part), encoding="utf-8")


def main(titles: Sequence[str] = ()) -> None:
    """Measure these sections, or all, write the page after each, and name the figures below their goal."""
    unknown = [title for title in titles if title not in SECTIONS]
    if unknown:
        raise InputError(f"no section {unknown[0]!r}: expected {', '.join(SECTIONS)}")
    page, missed = ROOT / "docs/BENCHMARKS.md", []
    for title in titles or SECTIONS:
        LOGGER.info(f"{title} ...")
        begin = time.perf_counter()
        figures = import_module(f"benchmarks.{SECTIONS[title]}").measure()
        LOGGER.info("\n" + as_table(figures))
        write_page(page, {title: section(title, figures, (time.perf_counter() - begin) / 60)})
        missed += [figure for figure in figures if figure.goal is not None and figure.ratio < figure.goal]
    for figure in missed:
        LOGGER.warning(f"below the goal: {figure.subject}: {figure.ratio:.2f} instead of {figure.goal:g}")
    LOGGER.info(f"Results saved to {page}")


def titles_of_command_line(arguments: Sequence[str] | None = None) -> list[str]:
    """Return the section titles on the command line, by default ``sys.argv``."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure the figures of docs/BENCHMARKS.md.")
    parser.add_argument("titles", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)} (default: all)")
    return parser.parse_args(arguments).titles


if __name__ == "__main__":
    run_command(lambda: main(titles_of_command_line()))
