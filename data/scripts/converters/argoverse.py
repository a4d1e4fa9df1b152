"""Argoverse-HD, front centre camera (Li et al., Carnegie Mellon): 39384 training, 15062 validation images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.scripts.converters.label_files import coco_labels, read_coco
from utils.dataset.download import DatasetFolder

SOURCE = "https://argoverse-hd.s3.us-east-2.amazonaws.com/Argoverse-HD-Full.zip"
GIGABYTES = 31.3


def fetch(folder: DatasetFolder, splits: Sequence[str], source: str = SOURCE) -> None:
    """Fetch the archive, which holds all splits, and convert."""
    folder.require_space(GIGABYTES)
    folder.archive(source)
    folder.step("images folder", partial(rename_images, folder.root))
    for split in ("train", "val"):
        folder.step(f"labels of {split}", partial(convert, folder.root, split))


def rename_images(root: Path) -> None:
    """Give the folder of the images the name that the label rule needs."""
    tracking = root / "Argoverse-1.1" / "tracking"
    if tracking.exists():  # else renamed by an earlier attempt
        tracking.rename(root / "Argoverse-1.1" / "images")


def convert(root: Path, split: str) -> None:
    """Write Argoverse-1.1/labels/<sequence>/*.txt; the annotation file tells the sequence of each image."""
    content = read_coco(root / "Argoverse-HD" / "annotations" / f"{split}.json")
    sequences, labels = content["seq_dirs"], root / "Argoverse-1.1" / "labels"
    coco_labels(
        content, lambda image: labels / sequences[image["sid"]] / f"{Path(image['name']).stem}.txt", keep_crowds=True
    )
