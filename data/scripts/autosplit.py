#!/usr/bin/env python3
"""Divide a folder of images into training, validation and test images: lists for a data set YAML.

    python data/scripts/autosplit.py ../datasets/mask/images --shares 0.8 0.1 0.1

Writes autosplit_train.txt, autosplit_val.txt and autosplit_test.txt beside the folder, as YOLOv5's ``autosplit``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.commands.cli import run_command
from utils.commands.options import argument_parser
from utils.log import LOGGER


def main(arguments: Sequence[str] | None = None) -> dict[str, Path]:
    """Read the options, divide and say what to put into the YAML file; returns split -> list file."""
    parser = argument_parser("Divide a folder of images into training, validation and test images.")
    parser.add_argument("folder", help="folder of the images, searched with its subfolders")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.9, 0.1], help="of train, val and test (0.9 0.1)")
    parser.add_argument("--annotated-only", action="store_true", help="leave out images without a label file")
    parser.add_argument("--seed", type=int, default=0, help="of the random division (0)")
    options = parser.parse_args(arguments)
    if len(options.shares) > 3:
        parser.error(f"--shares takes up to three numbers, got {len(options.shares)}")
    from utils.dataset.splits import autosplit

    files = autosplit(options.folder, options.shares, options.annotated_only, options.seed)
    LOGGER.info("Next: name them in the data set's YAML file, as in data/mask.yaml:")
    for split, file in files.items():
        LOGGER.info(f"  {split}: {file.resolve()}")
    return files


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(main)


if __name__ == "__main__":
    cli()
