#!/usr/bin/env python3
"""Find the sensitive layers: prune each one alone, without training, and measure what that costs.

    python prune_tools/sensitivity.py --weights runs/train/exp2/weights/best.pt

Writes sensitivity.csv, sensitivity.json and sensitivity.png and names the most sensitive layers. The same command
continues an interrupted analysis.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.survey.options import SensitivityOptions
from utils.commands.cli import run_command, show_arguments
from utils.commands.options import build, parse
from utils.log import log_as_command


def main(options: SensitivityOptions) -> Path:
    """Analyse, draw, print the sensitive layers; returns the run folder."""
    from prune_tools.survey.sensitivity import sensitivity_run

    show_arguments("sensitivity", options)
    return sensitivity_run(options)


def run(**keywords: Any) -> Path:
    """Analyse from Python, the flags as keywords; returns the run folder."""
    log_as_command()
    return main(build(SensitivityOptions, **keywords))


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(lambda: main(parse(SensitivityOptions, "Prune each layer alone and see which are sensitive.")))


if __name__ == "__main__":
    cli()
