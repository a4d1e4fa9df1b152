"""Accuracy against cost: this project's pruning compared with other ways to a smaller network.

    python -m benchmarks.frontier --data data/mask.yaml --weights yolov5n.pt --imgsz 320 --budgets 0.5 --seeds 1 2 3
    python -m benchmarks.frontier --data data/mask.yaml --imgsz 320 --table           # from the results that there are

docs/FRONTIER.md says what is compared and by which rules. The same command continues after any interruption.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.frontier.options import FrontierOptions
from utils.commands.cli import run_command, show_arguments
from utils.commands.options import parse


def main(options: FrontierOptions) -> Path:
    """Run what is missing, draw tables and pictures, and return the folder of the results."""
    from benchmarks.frontier.report import run_and_report

    show_arguments("frontier", options)
    return run_and_report(options)


if __name__ == "__main__":
    run_command(lambda: main(parse(FrontierOptions, "Accuracy against cost of several ways to a smaller network.")))
