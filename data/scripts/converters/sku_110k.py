"""SKU-110K (Goldman et al., Trax Retail): 8219 training, 588 validation, 2936 test images of shop shelves."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.scripts.converters.label_files import CLASS_AGNOSTIC, box_line, write_labels, write_list
from utils.dataset.download import DatasetFolder

SOURCE = "https://trax-geometry.s3.amazonaws.com/cvpr_challenge/SKU110K_fixed.tar.gz"
GIGABYTES = 13.6


def fetch(folder: DatasetFolder, splits: Sequence[str], source: str = SOURCE) -> None:
    """Fetch the archive, which holds all splits, and convert."""
    folder.require_space(GIGABYTES)
    folder.archive(source)
    folder.step("folders", partial(lift, folder.root))
    for split in ("train", "val", "test"):
        folder.step(f"labels of {split}", partial(convert, folder.root, split))


def lift(root: Path) -> None:
    """Move what the archive holds out of its top folder."""
    top = root / "SKU110K_fixed"
    if top.exists():  # else an earlier attempt did it
        for entry in top.iterdir():
            entry.rename(root / entry.name)
        top.rmdir()


def convert(root: Path, split: str) -> None:
    """Write labels/*.txt and <split>.txt from a CSV of image,left,top,right,bottom,class,image width,image height."""
    lines: dict[str, list[str]] = defaultdict(list)
    with (root / "annotations" / f"annotations_{split}.csv").open(encoding="utf-8", newline="") as stream:
        for image, left, top, right, bottom, _, width, height in csv.reader(stream):
            corners = float(left), float(top), float(right), float(bottom)
            lines[image].append(box_line(CLASS_AGNOSTIC, corners, float(width), float(height)))
    for image, boxes in lines.items():
        write_labels(root / "labels" / f"{Path(image).stem}.txt", boxes)
    write_list(root / f"{split}.txt", [f"images/{image}" for image in lines])
