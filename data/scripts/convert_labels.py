#!/usr/bin/env python3
"""Convert labels in COCO JSON, VOC XML or LabelMe JSON to YOLO label files, and write a data set YAML for training.

    python data/scripts/convert_labels.py annotations.json --split 0.1        a tenth of the images validates
    python data/scripts/convert_labels.py train/_annotations.coco.json --val valid/_annotations.coco.json
    python data/scripts/convert_labels.py xml_folder --images jpeg_folder --names face mask --split 0.1 0.1

The images stay where they are. The label file of an image goes where YOLOv5 looks for it: beside it, or, where one of
its folders is called images, into the folder labels next to that one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.commands.cli import run_command
from utils.commands.options import LARGEST_SEED, build, check_numbers, option, parse
from utils.errors import InputError


@dataclass
class ConvertOptions:
    """Options of convert_labels.py."""

    source: list[str] = option([], "annotation files, or folders that are searched for them", nargs="+")
    val: list[str] = option([], "those of the validation images, where they are apart", nargs="+")
    test: list[str] = option([], "those of the test images, where they are apart", nargs="+")
    split: list[float] = option(
        [], "share of the images that validates, such as 0.1; a second number is the share to test with", nargs="+",
        type=float, at_least=0, at_most=1,
    )  # fmt: skip
    images: list[str] = option(
        [], "folders of the images; default: the folders of the annotation files, then the folders above", nargs="+"
    )
    names: list[str] = option(
        [], "classes in their order; default: COCO's by id, others by the alphabet. Objects of other classes are left "
        "out", nargs="+",
    )  # fmt: skip
    output: str = option("", "folder of data.yaml and the lists of images; default: the folder of the first source")
    segments: bool = option(False, "write outlines where the annotations have them, for copy-paste augmentation")
    skip_difficult: bool = option(False, "leave out objects that a VOC annotation calls difficult")
    overwrite: bool = option(False, "replace label files and a data.yaml that are there and differ")
    seed: int = option(0, "of the random division by --split", at_least=0, at_most=LARGEST_SEED)

    def __post_init__(self) -> None:
        """Refuse values that cannot be used together, by name."""
        check_numbers(self)
        if not self.source:
            raise InputError("no annotations given: name a JSON file, or a folder of XML or JSON files")
        if self.split and (self.val or self.test):
            raise InputError("--split divides the images of one source; with --val or --test they are divided already")
        if len(self.split) > 2 or sum(self.split) >= 1:
            raise InputError(f"--split takes one or two shares that leave some for training, got {self.split}")
        if len(set(self.names)) < len(self.names):
            raise InputError("--names has a class twice")


def main(options: ConvertOptions) -> Path:
    """Convert; returns the data set YAML."""
    from data.scripts.annotations.convert import convert

    return convert(options)


def run(**keywords: Any) -> Path:
    """The conversion from Python, the flags as keywords; returns the data set YAML."""
    return main(build(ConvertOptions, **keywords))


def command(arguments: Sequence[str] | None = None) -> Path:
    """The command line; the first words, without a flag, are the sources."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-"):
        words.insert(0, "--source")
    return main(parse(ConvertOptions, "Convert COCO JSON, VOC XML or LabelMe JSON to YOLO label files.", words))


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(command)


if __name__ == "__main__":
    cli()
