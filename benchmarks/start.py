#!/usr/bin/env python3
"""Seconds until a command answers ``--help``, beside ``import torch``; CPU time of processes started for it.

python benchmarks/start.py
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, as_table, compare_seconds, in_turns
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.log import LOGGER
from utils.storage.files import ROOT

COMMANDS = ("train.py", "val.py", "detect.py", "export.py", "prune_tools/train_sparity.py", "prune_tools/prune.py",
            "prune_tools/finetune.py", "prune_tools/pipeline.py", "prune_tools/sweep.py", "prune_tools/groups.py",
            "prune_tools/sensitivity.py", "data/scripts/download_weights.py", "data/scripts/draw_mask_demo.py",
            "data/scripts/get_dataset.py")  # fmt: skip
BASELINE = "import torch"


@dataclass
class StartOptions:
    """Options of the benchmark."""

    repetitions: int = option(3, "rounds")


def children_seconds() -> float:
    """CPU time of all processes that this one has started and that have ended."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(repetitions: int = 3) -> list[Figure]:
    """A figure for each command."""

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)

    calls = {command: partial(run, command, "--help") for command in COMMANDS}
    seconds = in_turns({**calls, "torch": partial(run, "-c", BASELINE)}, repetitions, children_seconds)
    return [
        compare_seconds(f"{command} --help", seconds[command], seconds["torch"], 2.5, BASELINE) for command in COMMANDS
    ]


def main(options: StartOptions) -> list[Figure]:
    """Measure and print the table."""
    figures = measure(options.repetitions)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(StartOptions, "Seconds until a command answers --help.")))
