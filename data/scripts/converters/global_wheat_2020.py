"""Global Wheat Head Dataset 2020 (David et al.): 3422 training, 748 validation, 1276 test images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from utils.dataset.download import DatasetFolder
from utils.storage.files import make_folder

IMAGES = "https://zenodo.org/record/4298502/files/global-wheat-codalab-official.zip"
LABELS = "https://github.com/ultralytics/yolov5/releases/download/v1.0/GlobalWheat2020_labels.zip"
GIGABYTES = 7.0
DOMAINS = (
    "arvalis_1", "arvalis_2", "arvalis_3", "ethz_1", "rres_1", "inrae_1", "usask_1", "utokyo_1", "utokyo_2", "nau_1",
    "uq_1",
)  # fmt: skip


def fetch(folder: DatasetFolder, splits: Sequence[str], images: str = IMAGES, labels: str = LABELS) -> None:
    """Fetch images and labels, which hold all splits, and sort them into folders."""
    folder.require_space(GIGABYTES)
    folder.archive(images)
    folder.archive(labels)
    folder.step("folders", partial(arrange, folder.root))


def arrange(root: Path) -> None:
    """Move the folder of each domain below images/ and its annotation file below annotations/."""
    for domain in DOMAINS:
        for origin, place in ((root / domain, "images"), (root / f"{domain}.json", "annotations")):
            if origin.exists():  # else moved by an earlier attempt
                origin.rename(make_folder(root / place) / origin.name)
