"""Converters of public data sets, on annotations made here: what they write, where, and what they leave out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.scripts import download_weights
from data.scripts.converters import (
    argoverse,
    coco,
    global_wheat_2020,
    objects365,
    sku_110k,
    visdrone,
    voc,
    xview,
)
from data.scripts.converters.label_files import box_line, coco_labels, join_rings, read_coco, write_labels
from tests.loopback import Site, site
from utils import weights
from utils.checks import check_dataset
from utils.dataset.download import DatasetFolder
from utils.dataset.labels import find_images, img2label_paths
from utils.errors import InputError
from utils.storage.files import ROOT, read_yaml

__all__ = ["site"]

PICTURE = cv2.imencode(".jpg", np.full((40, 80, 3), 90, np.uint8))[1].tobytes()  # 80 wide, 40 high
SQUARE = "0.200000 0.500000 0.200000 0.500000"  # of left 8, top 10, right 24, bottom 30 in it


def zipped(files: dict[str, bytes | str]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def tarred(files: dict[str, bytes | str]) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return memory.getvalue()


def labels_of(name: str, root: Path, split: str) -> dict[str, str]:
    """Where the shipped YAML file says: {image name: label text, '' without a file}, as the data loader finds them."""
    content = {**read_yaml(ROOT / f"data/{name}.yaml"), "path": str(root)}
    images = find_images(check_dataset(content, splits=(split,), autodownload=False)[split])
    pairs = zip(images, map(Path, img2label_paths(images)), strict=True)
    return {Path(image).name: label.read_text() if label.exists() else "" for image, label in pairs}


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every data set fit the disk."""
    monkeypatch.setattr(DatasetFolder, "require_space", lambda self, gigabytes: None)


# -- lines and files ---------------------------------------------------------------------------------------------------


def test_lines_are_fractions_clipped_to_the_image():
    assert box_line(3, (8, 10, 24, 30), 80, 40) == f"3 {SQUARE}"
    assert box_line(0, (-20, -10, 40, 20), 80, 40) == "0 0.250000 0.250000 0.500000 0.500000"
    assert box_line(0, (90, 0, 99, 9), 80, 40) == box_line(0, (9, 9, 9, 20), 80, 40) == ""


def test_files_hold_each_line_once(tmp_path: Path):
    write_labels(tmp_path / "new" / "a.txt", ["0 a", "", "1 b", "0 a"])
    assert (tmp_path / "new" / "a.txt").read_text() == "0 a\n1 b\n"


def test_rings_are_joined_at_their_nearest_corners():
    first, second = np.array([[0, 0], [4, 0], [4, 4], [0, 4]]), np.array([[9, 9], [5, 5], [9, 5]])
    joined = join_rings([first, second])
    assert joined.tolist() == [[0, 0], [4, 0], [4, 4], [5, 5], [9, 5], [9, 9], [5, 5], [4, 4], [0, 4]]
    assert cv2.contourArea(joined.astype(np.float32)) == 16 + cv2.contourArea(second.astype(np.float32))
    assert join_rings([first]).tolist() == first.tolist()


COCO = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 80, "height": 40},
               {"id": 9, "file_name": "b.jpg", "width": 80, "height": 40}],
    "categories": [{"id": 90, "name": "z"}, {"id": 2, "name": "y"}],
    "annotations": [
        {"image_id": 7, "category_id": 90, "bbox": [8, 10, 16, 20], "iscrowd": 0,
         "segmentation": [[8, 10, 24, 10, 24, 30], [8, 10, 1]]},
        {"image_id": 7, "category_id": 2, "bbox": [8, 10, 16, 20], "iscrowd": 1, "segmentation": {"counts": []}},
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 40, 20]},
        {"image_id": 7, "category_id": 5, "bbox": [0, 0, 40, 20]},
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 0, 20]},
        {"image_id": 8, "category_id": 2, "bbox": [0, 0, 40, 20]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [f"1 {SQUARE}", "0 0.250000 0.250000 0.500000 0.500000"]),
        ({"keep_crowds": True}, [f"1 {SQUARE}", f"0 {SQUARE}", "0 0.250000 0.250000 0.500000 0.500000"]),
        (
            {"polygons": True},
            [
                "1 0.100000 0.250000 0.300000 0.250000 0.300000 0.750000",
                "0 0.000000 0.000000 0.500000 0.000000 0.500000 0.500000 0.000000 0.500000",
            ],
        ),
    ],
)
def test_coco_annotations(tmp_path: Path, caplog, options: dict, expected: list[str]):
    coco_labels(COCO, lambda image: tmp_path / f"{image['id']}.txt", **options)
    assert (tmp_path / "7.txt").read_text().splitlines() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["7.txt"]
    assert "3 annotations" in caplog.text


def test_other_files_are_no_coco_annotations(tmp_path: Path):
    for text, reason in (("{}", "no key 'images'"), ("[", "cannot be read")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=reason):
            read_coco(tmp_path / "a.json")


# -- data sets, from their archives to what the loader finds -----------------------------------------------------------


def test_coco(site: Site, roomy: None, tmp_path: Path):
    for split in ("train", "val", "test"):
        site.offer(f"/zips/{split}2017.zip", zipped({f"{split}2017/{name}.jpg": PICTURE for name in "ab"}))
    annotations = {f"annotations/instances_{split}2017.json": json.dumps(COCO) for split in ("train", "val")}
    site.offer("/annotations/annotations_trainval2017.zip", zipped(annotations))
    listed = {"annotations/image_info_test-dev2017.json": json.dumps({"images": COCO["images"][:1]})}
    site.offer("/annotations/image_info_test2017.zip", zipped(listed))
    with DatasetFolder(tmp_path) as folder:
        coco.fetch(folder, ["val"], source=site.url)
    assert not (tmp_path / "images/train2017").exists()
    boxes = f"1 {SQUARE}\n0 0.250000 0.250000 0.500000 0.500000\n"
    assert labels_of("coco", tmp_path, "val") == {"a.jpg": boxes, "b.jpg": ""}
    before = len(site.requests)
    with DatasetFolder(tmp_path) as folder:
        coco.fetch(folder, ["train", "val", "test"], segments=True, source=site.url)
    assert "/zips/val2017.zip" not in [path for path, _ in site.requests[before:]]
    assert labels_of("coco", tmp_path, "train")["a.jpg"].startswith("1 0.100000 0.250000 0.300000 0.250000 0.300000")
    assert labels_of("coco", tmp_path, "test") == {"a.jpg": ""}


def test_coco_checksums_are_applied(site: Site, roomy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(coco, "SOURCE", site.url)
    site.offer("/zips/val2017.zip", zipped({"val2017/a.jpg": PICTURE}))
    with pytest.raises(InputError, match="442b8da7639aecaf257c1dceb8ba8c80"), DatasetFolder(tmp_path) as folder:
        coco.fetch(folder, ["val"], source=site.url)


def voc_xml(*objects: tuple[str, int, tuple[int, int, int, int]]) -> str:
    parts = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}"
        f"</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, difficult, box in objects
    )
    return f"<annotation><size><width>80</width><height>40</height></size>{parts}</annotation>"


def test_voc(site: Site, roomy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    xml = voc_xml(("dog", 0, (9, 11, 24, 30)), ("cat", 1, (1, 1, 80, 40)), ("head", 0, (1, 1, 80, 40)))
    archives = {}
    for archive, (split, _) in voc.ARCHIVES.items():
        year = 2012 if "2012" in archive else 2007
        files: dict[str, bytes | str] = {}
        for part in ("test",) if split == "val" else ("train", "val"):
            files |= {
                f"VOCdevkit/VOC{year}/ImageSets/Main/{part}.txt": f"{part}_{year}\n",
                f"VOCdevkit/VOC{year}/Annotations/{part}_{year}.xml": xml,
                f"VOCdevkit/VOC{year}/JPEGImages/{part}_{year}.jpg": PICTURE,
            }
        content = tarred(files)
        site.offer(f"/{archive}", content)
        archives[archive] = (split, f"md5:{hashlib.md5(content).hexdigest()}")
    monkeypatch.setattr(voc, "ARCHIVES", archives)
    monkeypatch.setattr(voc, "SOURCE", site.url)
    with DatasetFolder(tmp_path) as folder:
        voc.fetch(folder, ["train", "test"], source=site.url)
    line = f"{voc.CLASSES.index('dog')} {SQUARE}\n"
    train = [f"{part}_{year}.jpg" for part in ("train", "val") for year in (2007, 2012)]
    assert labels_of("VOC", tmp_path, "train") == dict.fromkeys(train, line)
    assert labels_of("VOC", tmp_path, "val") == labels_of("VOC", tmp_path, "test") == {"test_2007.jpg": line}


def test_voc_classes_are_those_of_the_yaml():
    assert list(read_yaml(ROOT / "data/VOC.yaml")["names"].values()) == list(voc.CLASSES)


def test_visdrone(site: Site, roomy: None, tmp_path: Path):
    rows = "8,10,16,20,1,4,0,0\n0,0,9,9,0,1,0,0\n0,0,9,9,1,0,0,0\n0,0,9,9,1,11,0,0,\n"
    for split, part in visdrone.PARTS.items():
        name = f"VisDrone2019-DET-{part}"
        files = {f"{name}/images/{split}.jpg": PICTURE, f"{name}/annotations/{split}.txt": rows}
        site.offer(f"/{name}.zip", zipped(files))
    with DatasetFolder(tmp_path) as folder:
        visdrone.fetch(folder, ["train", "val", "test"], source=site.url)
    for split in visdrone.PARTS:
        assert labels_of("VisDrone", tmp_path, split) == {f"{split}.jpg": f"3 {SQUARE}\n"}


def test_argoverse(site: Site, roomy: None, tmp_path: Path):
    files: dict[str, bytes | str] = {}
    for split in ("train", "val"):
        sequences = [f"{split}/log0/ring_front_center", f"{split}/log1/ring_front_center"]
        annotations = {
            "seq_dirs": sequences,
            "images": [{"id": 0, "sid": 1, "name": "a.jpg", "width": 80, "height": 40}],
            "categories": [{"id": index} for index in range(8)],
            "annotations": [{"image_id": 0, "category_id": 7, "bbox": [8, 10, 16, 20], "iscrowd": 1}],
        }
        files[f"Argoverse-HD/annotations/{split}.json"] = json.dumps(annotations)
        files[f"Argoverse-1.1/tracking/{sequences[1]}/a.jpg"] = PICTURE
    with DatasetFolder(tmp_path) as folder:
        argoverse.fetch(folder, ["train", "val"], source=site.offer("/all.zip", zipped(files)))
    for split in ("train", "val"):
        assert labels_of("Argoverse", tmp_path, split) == {"a.jpg": f"7 {SQUARE}\n"}


def test_global_wheat(site: Site, roomy: None, tmp_path: Path):
    pictures: dict[str, bytes | str] = {}
    for domain in global_wheat_2020.DOMAINS:
        pictures |= {f"{domain}/{domain}.jpg": PICTURE, f"{domain}.json": "{}"}
    labels = {f"labels/{domain}/{domain}.txt": f"0 {SQUARE}\n" for domain in global_wheat_2020.DOMAINS}
    addresses = site.offer("/images.zip", zipped(pictures)), site.offer("/labels.zip", zipped(labels))
    with DatasetFolder(tmp_path) as folder:
        global_wheat_2020.fetch(folder, ["train", "val"], *addresses)
    found = {split: labels_of("GlobalWheat2020", tmp_path, split) for split in ("train", "val", "test")}
    assert [len(found[split]) for split in ("train", "val", "test")] == [7, 1, 4]
    assert {text for part in found.values() for text in part.values()} == {f"0 {SQUARE}\n"}
    assert (tmp_path / "annotations/uq_1.json").exists()


def test_sku_110k(site: Site, roomy: None, tmp_path: Path):
    files: dict[str, bytes | str] = {}
    for split in ("train", "val", "test"):
        files[f"SKU110K_fixed/annotations/annotations_{split}.csv"] = (
            f"{split}_0.jpg,8,10,24,30,object,80,40\n{split}_0.jpg,0,0,40,20,object,80,40\n"
        )
        files[f"SKU110K_fixed/images/{split}_0.jpg"] = PICTURE
    with DatasetFolder(tmp_path) as folder:
        sku_110k.fetch(folder, ["train"], source=site.offer("/all.tar.gz", tarred(files)))
    for split in ("train", "val", "test"):
        expected = f"0 {SQUARE}\n0 0.250000 0.250000 0.500000 0.500000\n"
        assert labels_of("SKU-110K", tmp_path, split) == {f"{split}_0.jpg": expected}


def test_objects365(site: Site, roomy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(objects365, "PATCHES", {"train": 2, "val": 2})
    monkeypatch.setattr(objects365, "FIRST_PATCH_OF_V2", 1)
    for split, places in (("train", ("", "")), ("val", ("images/v1/", "images/v2/"))):
        site.offer(f"/{split}/zhiyuan_objv2_{split}.tar.gz", tarred({f"zhiyuan_objv2_{split}.json": json.dumps(COCO)}))
        for patch, place in enumerate(places):
            image = {f"patch{patch}/{'ab'[patch]}.jpg": PICTURE}
            site.offer(f"/{split}/{place}patch{patch}.tar.gz", tarred(image))
    with DatasetFolder(tmp_path) as folder:
        objects365.fetch(folder, ["train", "val"], source=site.url)
    for split in ("train", "val"):
        found = labels_of("Objects365", tmp_path, split)
        assert (len(found["a.jpg"].splitlines()), found["b.jpg"]) == (3, "")


def test_xview_has_a_type_for_each_class_and_a_fixed_split(tmp_path: Path):
    assert len(xview.TYPES) == len(read_yaml(ROOT / "data/xView.yaml")["names"]) == len(set(xview.TYPES))
    (tmp_path / "images/train").mkdir(parents=True)
    for index in range(200):
        (tmp_path / f"images/train/{index}.tif").touch()
    xview.split_by_chance(tmp_path)
    held_out = (tmp_path / "images/autosplit_val.txt").read_text()
    assert 8 <= len(held_out.split()) <= 35
    xview.split_by_chance(tmp_path)
    assert (tmp_path / "images/autosplit_val.txt").read_text() == held_out


# -- weights -----------------------------------------------------------------------------------------------------------


def test_weights_by_command(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "RELEASES_URL", site.url)
    for name in weights.RELEASED:
        site.offer(f"/v6.2/{name}", bytes(weights.SMALLEST_BYTES))
    download_weights.main(["yolov5n.pt"])
    assert [path.name for path in tmp_path.iterdir()] == ["yolov5n.pt"]
    download_weights.main([])
    assert {path.name for path in tmp_path.iterdir()} == set(weights.RELEASED)
    with pytest.raises(SystemExit):
        download_weights.main(["yolov5z.pt"])
    assert "yolov5z.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("get_coco.sh", (), "get_dataset.py coco --splits train val"),
        ("get_coco.sh", ("--val", "--segments"), "get_dataset.py coco --splits val --segments"),
        ("download_weights.sh", ("yolov5n.pt",), "download_weights.py yolov5n.pt"),
        ("get_coco128.sh", (), "check_dataset('coco128.yaml')"),
    ],
)
def test_yolov5s_shell_commands_start_the_scripts(tmp_path: Path, script: str, arguments: tuple, expected: str):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    command = ["sh", str(ROOT / "data/scripts" / script), *arguments]
    told = subprocess.run(
        command, env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip().endswith(expected)


def test_a_shell_command_refuses_what_it_does_not_know():
    command = ["sh", str(ROOT / "data/scripts/get_coco.sh"), "--sama"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, "unknown option --sama" in refused.stderr) == (2, True)
