"""VisDrone2019-DET (Zhu et al., Tianjin University): 6471 training, 548 validation, 1610 test images from drones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.scripts.converters.label_files import box_line, write_labels
from utils.dataset.download import DatasetFolder

SOURCE = "https://github.com/ultralytics/yolov5/releases/download/v1.0"  # a mirror; the original is on Google Drive
GIGABYTES = 2.3
PARTS = {"train": "train", "val": "val", "test": "test-dev"}
CLASS_COUNT = 10  # categories 1 to 10; 0 is a region to ignore, 11 is 'others'


def fetch(folder: DatasetFolder, splits: Sequence[str], source: str = SOURCE) -> None:
    """Fetch the archives of the splits and convert."""
    folder.require_space(GIGABYTES)
    for split in splits:
        name = f"VisDrone2019-DET-{PARTS[split]}"
        folder.archive(f"{source}/{name}.zip")
        folder.step(f"labels of {split}", partial(convert, folder.root / name))


def convert(part: Path) -> None:
    """Write labels/*.txt beside annotations/*.txt, whose lines are left,top,width,height,score,category,..."""
    from tqdm import tqdm

    from utils.dataset.images import inspect_image

    for file in tqdm(sorted(part.glob("annotations/*.txt")), desc=part.name, unit="images", disable=None):
        (width, height), _ = inspect_image(part / "images" / f"{file.stem}.jpg")
        lines = []
        for row in file.read_text(encoding="utf-8").split():
            left, top, across, down, score, category = (int(value) for value in row.split(",")[:6])
            if score and 1 <= category <= CLASS_COUNT:
                lines.append(box_line(category - 1, (left, top, left + across, top + down), width, height))
        write_labels(part / "labels" / file.name, lines)
