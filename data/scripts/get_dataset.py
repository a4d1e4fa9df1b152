#!/usr/bin/env python3
"""Fetch a public data set and write its labels in YOLO format. Training and validation start it when data are missing.

    python data/scripts/get_dataset.py voc                        into ../datasets/VOC, where data/VOC.yaml expects it
    python data/scripts/get_dataset.py coco --splits val --output /data/coco
    python data/scripts/get_dataset.py coco --segments                outlines instead of boxes
    python data/scripts/get_dataset.py face_mask                  README's photographs, from an archive of Kaggle

An interrupted run continues where it stopped. The licences of the data sets are those of their authors. Other data sets
of data/*.yaml have a recipe in docs/DATA.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.commands.cli import run_command
from utils.commands.next_steps import log_next
from utils.commands.options import argument_parser, command_line
from utils.dataset.download import DatasetFolder
from utils.errors import InputError
from utils.installation import import_own
from utils.log import LOGGER
from utils.storage.files import ROOT, WORK, read_yaml, write_yaml
from utils.training.options import TrainOptions

DESCRIPTIONS = {"coco": "coco.yaml", "face_mask": "face_mask.yaml", "voc": "VOC.yaml"}
KNOWN = "coco, face_mask or voc"
RECIPES = ("argoverse", "global_wheat_2020", "objects365", "sku_110k", "visdrone", "xview")  # in docs/DATA.md


def get(
    name: str,
    output: str | Path = "",
    splits: Sequence[str] = ("train", "val"),
    segments: bool = False,
    again: bool = False,
) -> Path:
    """Fetch the data set ``name`` into ``output`` (default: where its YAML file expects it) and return that folder.

    Any other folder also gets a YAML file that names it. What an earlier call fetched is kept, unless that call was
    complete and ``again`` asks to fetch everything again.

    Raises:
        InputError: ``name`` has a recipe only or is unknown, ``segments`` for a data set without outlines, or a
            download fails.
    """
    if name not in DESCRIPTIONS:
        known = f"expected {KNOWN}"
        recipes = f"{ROOT / 'docs/DATA.md'}, section Recipes"
        if name in RECIPES:
            raise InputError(f"{name} is not fetched by a command, {known}: for {name} follow {recipes}")
        raise InputError(f"unknown data set {name}, {known}; {recipes}, has {', '.join(RECIPES)}")
    description = ROOT / "data" / DESCRIPTIONS[name]
    usual = (WORK / read_yaml(description)["path"]).resolve()
    root = Path(output).resolve() if output else usual
    fetch = import_own(f"data.scripts.converters.{name}").fetch
    keywords = {"segments": True} if segments else {}
    if segments and "segments" not in signature(fetch).parameters:
        raise InputError(f"--segments: the annotations of {name} have boxes only, leave it out")
    with DatasetFolder(root, again) as folder:
        fetch(folder, splits, **keywords)
    LOGGER.info(f"{name} is complete in {root}")
    data = DESCRIPTIONS[name]
    if root != usual:  # the shipped YAML file names another folder, and would fetch everything again
        data = str(root / data)
        write_yaml(data, read_yaml(description) | {"path": str(root)})
    log_next(command_line("train.py", TrainOptions, {"data": data}))
    return root


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and fetch."""
    parser = argument_parser("Fetch a public data set and write its labels in YOLO format.")
    parser.add_argument("name", help=KNOWN)
    parser.add_argument("--output", default="", help="folder; default: the path in the data set's YAML file")
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=("train", "val", "test"),
        default=["train", "val"],
        help="parts to fetch, if they are separate archives (default: train val)",
    )
    parser.add_argument("--segments", action="store_true", help="write outlines instead of boxes, for copy-paste")
    parser.add_argument("--again", action="store_true", help="fetch again what an earlier run completed")
    options = parser.parse_args(arguments)
    get(options.name, options.output, options.splits, options.segments, options.again)


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(main)


if __name__ == "__main__":
    cli()
