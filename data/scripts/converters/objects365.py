"""Objects365 v2 (Shao et al., Megvii): 1742289 training and 80000 validation images, 365 classes, 367 GB of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from data.scripts.converters.label_files import coco_labels, read_coco
from utils.dataset.download import DatasetFolder
from utils.storage.files import make_folder

SOURCE = "https://dorc.ks3-cn-beijing.ksyun.com/data-set/" + quote("2020Objects365数据集")
GIGABYTES = {"train": 360, "val": 20}  # images and, one at a time, their archives
PATCHES = {"train": 51, "val": 44}
FIRST_PATCH_OF_V2 = 16  # of val: the earlier ones lie in another folder


def fetch(folder: DatasetFolder, splits: Sequence[str], source: str = SOURCE) -> None:
    """Fetch the splits patch by patch and convert. Reading the training annotations takes tens of GB of memory."""
    folder.require_space(sum(GIGABYTES[split] for split in splits))
    for split in splits:
        folder.archive(f"{source}/{split}/zhiyuan_objv2_{split}.tar.gz")
        for patch in range(PATCHES[split]):
            version = "" if split == "train" else f"images/v{1 if patch < FIRST_PATCH_OF_V2 else 2}/"
            folder.archive(f"{source}/{split}/{version}patch{patch}.tar.gz", f"images/{split}")
        folder.step(f"images of {split}", partial(flatten, folder.root / "images" / split))
        folder.step(f"labels of {split}", partial(convert, folder.root, split))


def flatten(images: Path) -> None:
    """Move the images out of the folders of their patches."""
    for folder in [entry for entry in make_folder(images).iterdir() if entry.is_dir()]:
        for image in folder.rglob("*.jpg"):
            os.replace(image, images / image.name)


def convert(root: Path, split: str) -> None:
    """Write labels/<split>/*.txt from zhiyuan_objv2_<split>.json."""
    name = f"zhiyuan_objv2_{split}.json"
    content = read_coco(next(root.rglob(name), root / name))  # wherever the archive had it
    labels = root / "labels" / split
    coco_labels(content, lambda image: labels / f"{Path(image['file_name']).stem}.txt", keep_crowds=True)
