#!/usr/bin/env python3
"""Fetch released weights of YOLOv5 into the working folder.

    python data/scripts/download_weights.py yolov5n.pt yolov5s.pt

Without names, all ten detection models. They are under the licence of their authors, which the log names.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.commands.cli import run_command
from utils.commands.options import argument_parser
from utils.downloads import RELEASED, fetch_weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the names and fetch."""
    parser = argument_parser("Fetch released weights of YOLOv5 into the working folder.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RELEASED)} (default: all)")
    names = parser.parse_args(arguments).names or list(RELEASED)
    unknown = [name for name in names if name not in RELEASED]
    if unknown:
        parser.error(f"{unknown[0]} is not a released file: expected one of {', '.join(RELEASED)}")
    for name in names:
        fetch_weights(Path(name))


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(main)


if __name__ == "__main__":
    cli()
