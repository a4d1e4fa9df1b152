"""PASCAL VOC 2007 and 2012 (Everingham et al.): train and val of both years to train, test of 2007 to validate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from data.scripts.converters.label_files import box_line, write_labels
from utils.dataset.download import DatasetFolder
from utils.log import LOGGER
from utils.storage.files import make_folder

SOURCE = "https://thor.robots.ox.ac.uk/pascal/VOC"
GIGABYTES = 2.8
ARCHIVES = {
    "voc2007/VOCtrainval_06-Nov-2007.tar": ("train", "md5:c52e279531787c972589f7e41ab4ae64"),
    "voc2007/VOCtest_06-Nov-2007.tar": ("val", "md5:b6e924de25625d8de591ea690078ad9f"),
    "voc2012/VOCtrainval_11-May-2012.tar": ("train", "md5:6cd6e144f989b92b3379bac3b3de84fd"),
}
PARTS = {"train": (("train", 2007), ("val", 2007), ("train", 2012), ("val", 2012)), "val": (("test", 2007),)}
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def fetch(folder: DatasetFolder, splits: Sequence[str], source: str = SOURCE) -> None:
    """Fetch the archives of the splits (test is val) and convert their annotations."""
    needed = dict.fromkeys("val" if split == "test" else split for split in splits)
    folder.require_space(GIGABYTES)
    for archive, (split, checksum) in ARCHIVES.items():
        if split in needed:
            folder.archive(f"{source}/{archive}", checksum=checksum if source == SOURCE else "")
    for split in needed:
        for part, year in PARTS[split]:
            folder.step(f"labels of {part}{year}", partial(convert, folder.root, part, year))


def convert(root: Path, part: str, year: int) -> None:
    """Move the images of ``part`` to images/<part><year> and write their labels, without 'difficult' objects."""
    origin, name = root / "VOCdevkit" / f"VOC{year}", f"{part}{year}"
    images = make_folder(root / "images" / name)
    stems = (origin / "ImageSets" / "Main" / f"{part}.txt").read_text(encoding="ascii").split()
    for stem in tqdm(stems, desc=f"VOC {name}", unit="images", disable=None):
        lines = annotation_lines(origin / "Annotations" / f"{stem}.xml")
        write_labels(root / "labels" / name / f"{stem}.txt", lines)
        picture = origin / "JPEGImages" / f"{stem}.jpg"
        if picture.exists():  # else moved by an earlier attempt
            os.replace(picture, images / picture.name)


def annotation_lines(file: Path) -> list[str]:
    """Return the label lines of a VOC annotation (XML), whose corners are pixels counted from 1, both included."""
    tree = ElementTree.parse(file).getroot()
    width = int(tree.findtext("size/width", "0"))
    height = int(tree.findtext("size/height", "0"))
    lines = []
    for item in tree.iter("object"):
        name = item.findtext("name", "")
        if name not in CLASSES or item.findtext("difficult", "0").strip() == "1":
            continue
        left, top, right, bottom = [float(item.findtext(f"bndbox/{corner}", "0")) for corner in CORNERS]
        lines.append(box_line(CLASSES.index(name), (left - 1, top - 1, right, bottom), width, height))
    if "" in lines:
        LOGGER.warning(f"{file}: {lines.count('')} boxes without area are left out")
    return lines
