"""The data set YAML of converted labels, and the lists of images that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.dataset.splits import SPLITS, write_image_list
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import read_yaml, write_yaml

FILE_NAME = "data.yaml"


def describe(folder: Path, parts: Mapping[str, Sequence[str]], names: Sequence[str]) -> dict[str, Any]:
    """The content of the data set YAML; without validation images the training images serve."""
    lists = {
        split: f"{split if split in parts else 'train'}.txt" for split in SPLITS if split != "test" or split in parts
    }
    return {"path": str(folder.resolve()), **lists, "names": dict(enumerate(names))}


def check_unused(file: Path, content: Mapping[str, Any]) -> None:
    """Raise InputError if there is a data set YAML that says something else."""
    if file.exists() and read_yaml(file) != content:
        raise InputError(
            f"{file} is there and describes something else: nothing was written; name another folder with --output, or "
            "replace it with --overwrite"
        )


def write_description(folder: Path, parts: Mapping[str, Sequence[str]], content: Mapping[str, Any]) -> Path:
    """Write the lists of images and the data set YAML."""
    for split, images in parts.items():
        write_image_list(folder / f"{split}.txt", images)
    if "val" not in parts:
        LOGGER.warning("WARNING: no images to validate on: the training images serve; use --split 0.1, or --val")
    write_yaml(folder / FILE_NAME, content)
    return folder / FILE_NAME
