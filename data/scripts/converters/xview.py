"""xView 2018 (US National Geospatial-Intelligence Agency): 847 satellite images. It has to be fetched by hand."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.scripts.converters.label_files import box_line, write_labels, write_list
from utils.dataset.download import DatasetFolder
from utils.errors import MissingFileError
from utils.log import LOGGER
from utils.storage.archives import unpack

HOME = "https://xviewdataset.org"  # asks for a registration
ARCHIVES = ("train_labels.zip", "train_images.zip", "val_images.zip")
VALIDATION_SHARE = 0.1
# The type ids of the annotations in the order of the class indices of data/xView.yaml
TYPES = (
    11, 12, 13, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 35, 36, 37, 38, 40, 41, 42, 44, 45, 47,
    49, 50, 51, 52, 53, 54, 55, 56, 57, 59, 60, 61, 62, 63, 64, 65, 66, 71, 72, 73, 74, 76, 77, 79, 83, 84, 86, 89, 91,
    93, 94,
)  # fmt: skip


def fetch(folder: DatasetFolder, splits: Sequence[str]) -> None:
    """Unpack the archives that the user put into the folder, and convert."""
    for name in ARCHIVES:
        archive = folder.root / name
        folder.step(f"unpack {name}", partial(_unpack, archive))
    folder.step("folders", partial(move_images, folder.root))
    folder.step("labels", partial(convert, folder.root))
    folder.step("lists", partial(split_by_chance, folder.root))


def _unpack(archive: Path) -> None:
    if not archive.exists():
        raise MissingFileError(f"xView needs a registration: get {', '.join(ARCHIVES)} from {HOME}, put them into "
                               f"{archive.parent} and run this again ({archive.name} is missing)")  # fmt: skip
    unpack(archive, archive.parent)


def move_images(root: Path) -> None:
    """Move the unpacked folders of images to where the label rule looks."""
    for origin, target in (("train_images", "train"), ("val_images", "val")):
        if (root / origin).exists():  # else moved by an earlier attempt
            (root / "images").mkdir(exist_ok=True)
            (root / origin).rename(root / "images" / target)


def convert(root: Path) -> None:
    """Write labels/train/*.txt from xView_train.geojson."""
    from tqdm import tqdm

    from utils.dataset.images import inspect_image

    content = json.loads((root / "xView_train.geojson").read_text(encoding="utf-8"))
    index_of = {kind: index for index, kind in enumerate(TYPES)}
    boxes: dict[str, list[tuple[int, list[float]]]] = defaultdict(list)
    left_out = 0
    for feature in content["features"]:
        properties = feature["properties"]
        corners = [float(value) for value in properties["bounds_imcoords"].split(",") if value]
        if len(corners) == 4 and properties["type_id"] in index_of:
            boxes[properties["image_id"]].append((index_of[properties["type_id"]], corners))
        else:
            left_out += 1
    for name, found in tqdm(boxes.items(), desc="xView labels", unit="images", disable=None):
        image = root / "images" / "train" / name
        if not image.exists():
            left_out += len(found)
            continue
        size, _ = inspect_image(image)
        lines = [box_line(index, corners, *size) for index, corners in found]
        left_out += lines.count("")
        write_labels(root / "labels" / "train" / f"{image.stem}.txt", lines)
    if left_out:
        LOGGER.warning(f"xView: {left_out} annotations without area, known class or image are left out")


def split_by_chance(root: Path, seed: int = 0) -> None:
    """Write images/autosplit_train.txt and autosplit_val.txt, the same ones whenever the images are the same."""
    images = sorted(path.name for path in (root / "images" / "train").glob("*.tif"))
    drawn = random.Random(seed).choices(("train", "val"), (1 - VALIDATION_SHARE, VALIDATION_SHARE), k=len(images))
    for split in ("train", "val"):
        chosen = [f"train/{name}" for name, place in zip(images, drawn, strict=True) if place == split]
        write_list(root / "images" / f"autosplit_{split}.txt", chosen)
