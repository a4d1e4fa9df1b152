#!/usr/bin/env python3
"""Prune a sparsely trained YOLOv5: remove the channels with the smallest batch-norm gammas.

    python prune_tools/prune.py --weights runs/train/exp2/weights/best.pt --target-flops 0.5
    python prune_tools/prune.py --weights runs/train/exp2/weights/best.pt --percent 0.4 --data data/mask.yaml

Writes pruned_model.pt, pruned_model.yaml, orign_model.pt (full width, removed channels zero) and the report as
report.html, report.json and report.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.options import PruneOptions
from utils.commands.cli import run_command, show_arguments
from utils.commands.options import build, parse
from utils.log import log_as_command


def main(options: PruneOptions) -> Path:
    """Prune, check, repair, validate, save and report; returns the run folder."""
    from prune_tools.prune_run import prune_run

    show_arguments("prune", options)
    return prune_run(options)


def run(**keywords: Any) -> Path:
    """Prune from Python, the flags as keywords; returns the run folder."""
    log_as_command()
    return main(build(PruneOptions, **keywords))


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(lambda: main(parse(PruneOptions, "Prune a sparsely trained YOLOv5 by its batch-norm gammas.")))


if __name__ == "__main__":
    cli()
