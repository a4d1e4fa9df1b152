#!/usr/bin/env python3
"""Find out how far a model can be pruned: prune at many ratios without training, and see where accuracy falls.

    python prune_tools/sweep.py --weights runs/train/exp2/weights/best.pt
    python prune_tools/sweep.py --weights best.pt --data data/mask.yaml --by flops --ratios 0.3 0.4 0.5 --images 200

Writes sweep.csv, sweep.json and sweep.png. The same command continues an interrupted sweep; further ratios are added to
those that are finished.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.survey.options import SweepOptions
from utils.commands.cli import run_command, show_arguments
from utils.commands.options import build, parse
from utils.log import log_as_command


def main(options: SweepOptions) -> Path:
    """Sweep, draw, propose; returns the run folder."""
    from prune_tools.survey.sweep import sweep_run

    show_arguments("sweep", options)
    return sweep_run(options)


def run(**keywords: Any) -> Path:
    """Sweep from Python, the flags as keywords; returns the run folder."""
    log_as_command()
    return main(build(SweepOptions, **keywords))


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(lambda: main(parse(SweepOptions, "Prune at many ratios without training and see what it costs.")))


if __name__ == "__main__":
    cli()
