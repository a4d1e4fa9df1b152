"""COCO 2017 (cocodataset.org): 118287 training, 5000 validation images, 20288 of test-dev without labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.scripts.converters.label_files import coco_labels, read_coco
from utils.dataset.download import DatasetFolder
from utils.dataset.splits import write_image_list

SOURCE = "http://images.cocodataset.org"  # http, as its certificate has another name; train and val have checksums
GIGABYTES = {"train": 19.3, "val": 1.0, "test": 6.6}
CHECKSUMS = {
    "train": "md5:cced6f7f71b7629ddf16f17bbcfab6b2",
    "val": "md5:442b8da7639aecaf257c1dceb8ba8c80",
    "annotations": "md5:f4bbac642086de4f52a3fdda2de5fa2c",
}


def fetch(folder: DatasetFolder, splits: Sequence[str], segments: bool = False, source: str = SOURCE) -> None:
    """Fetch images and annotations of the splits and convert; ``segments`` writes outlines instead of boxes."""
    folder.require_space(sum(GIGABYTES[split] for split in splits))
    checksums = CHECKSUMS if source == SOURCE else {}
    for split in splits:
        folder.archive(f"{source}/zips/{split}2017.zip", "images", checksums.get(split, ""))
    labelled = [split for split in splits if split != "test"]
    if labelled:
        name = "annotations_trainval2017.zip"
        folder.archive(f"{source}/annotations/{name}", checksum=checksums.get("annotations", ""))
    for split in labelled:
        convert(folder.root, split, segments)  # each time, as boxes or outlines
    if "test" in splits:
        folder.archive(f"{source}/annotations/image_info_test2017.zip")
        folder.step("list of test", partial(list_test_images, folder.root))


def convert(root: Path, split: str, segments: bool = False) -> None:
    """Write labels/<split>2017/*.txt and <split>2017.txt from annotations/instances_<split>2017.json."""
    part = f"{split}2017"
    content = read_coco(root / "annotations" / f"instances_{part}.json")
    labels = root / "labels" / part
    coco_labels(content, lambda image: labels / f"{Path(image['file_name']).stem}.txt", polygons=segments)
    images = root / "images" / part
    write_image_list(root / f"{part}.txt", sorted(str(images / image["file_name"]) for image in content["images"]))


def list_test_images(root: Path) -> None:
    """Write test-dev2017.txt, the part of the test images that the public evaluation uses."""
    content = json.loads((root / "annotations" / "image_info_test-dev2017.json").read_text(encoding="utf-8"))
    names = sorted(image["file_name"] for image in content["images"])
    write_image_list(root / "test-dev2017.txt", [str(root / "images/test2017" / name) for name in names])
