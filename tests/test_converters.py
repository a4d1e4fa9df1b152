"""Converters of public data sets, on annotations made here: what they write, where, and what they leave out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.scripts import download_weights, get_dataset
from data.scripts.converters import coco, face_mask, voc
from data.scripts.converters.label_files import box_line, coco_labels, join_rings, read_coco, write_labels
from tests.loopback import Site, site
from utils import downloads
from utils.dataset.description import check_dataset
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
    """Read the labels at the places that the shipped YAML file names, as the data loader does.

    Returns:
        {image name: label text, '' without a file}.
    """
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


def mask_archive(file: Path, count: int = face_mask.IMAGE_COUNT) -> None:
    """Write an archive as Kaggle's, of ``count`` empty images with the objects of number 1 at the same places."""
    items = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax>"
        f"<ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in (
            ("with_mask", (321, 34, 354, 69)),
            ("without_mask", (87, 56, 107, 89)),
            ("mask_weared_incorrect", (1, 1, 9, 9)),
        )
    )
    xml = f"<annotation><size><width>400</width><height>156</height></size>{items}</annotation>"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(count):
            archive.writestr(f"annotations/maksssksksss{number}.xml", xml)
            archive.writestr(f"images/maksssksksss{number}.png", b"")


def test_photographs_with_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture, roomy: None):
    root = tmp_path / "sets"
    with pytest.raises(InputError, match=r"Kaggle asks for a login.*kaggle\.com/datasets/andrewmvd.*archive\.zip into"):
        get_dataset.get("face_mask", root)
    assert not root.exists()
    root.mkdir()
    mask_archive(root / "archive.zip")
    get_dataset.get("face_mask", root)
    counts = {part: len(list((root / "images" / part).iterdir())) for part in ("train", "val", "unused")}
    assert counts == {"train": 569, "val": 134, "unused": 150}
    assert (root / "labels/train/maksssksksss1.txt").read_text(encoding="utf-8").splitlines() == [
        "1 0.843750 0.330128 0.082500 0.224359",
        "0 0.242500 0.464744 0.050000 0.211538",
    ]
    assert (root / "images/val/maksssksksss4.png").exists() and (root / "labels/val/maksssksksss850.txt").exists()
    assert "objects {'train': 1138, 'val': 268}, expected {'train': 2839, 'val': 691}" in caplog.text
    data = check_dataset(root / "face_mask.yaml")
    assert data["names"] == {0: "face", 1: "face_mask"} and data["val"] == str(root / "images/val")


def test_photographs_that_are_missing_are_named(tmp_path: Path, roomy: None):
    mask_archive(tmp_path / "archive.zip", count=3)
    with pytest.raises(InputError, match=r"maksssksksss3\.png is missing: the archive is incomplete"):
        get_dataset.get("face_mask", tmp_path)


def test_voc_classes_are_those_of_the_yaml():
    assert list(read_yaml(ROOT / "data/VOC.yaml")["names"].values()) == list(voc.CLASSES)


# -- recipes for people ------------------------------------------------------------------------------------------------

RECIPES = ("Argoverse", "GlobalWheat2020", "Objects365", "SKU-110K", "VisDrone", "xView")


def recipes() -> str:
    """Return the section Recipes of docs/DATA.md."""
    text = (ROOT / "docs/DATA.md").read_text(encoding="utf-8")
    return text.split("\n### Recipes\n")[1].split("\n## ")[0]


def test_the_code_of_the_recipes_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (code,) = re.findall(r"```python\n(.*?)```", recipes(), re.DOTALL)
    (tmp_path / "annotations.json").write_text(json.dumps(COCO))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/DATA.md", "exec"), {})
    assert (tmp_path / "labels/train/a.txt").read_text() == f"0 {SQUARE}\n"
    assert (tmp_path / "train.txt").read_text() == "./images/train/a.jpg\n"


def test_xviews_types_in_the_recipe_are_as_many_as_its_classes():
    types = re.search(r"position of the type among these: ([\d\s]+)", recipes())[1].split()
    assert len(types) == len(set(types)) == read_yaml(ROOT / "data/xView.yaml")["nc"] == 60


@pytest.mark.parametrize("name", RECIPES)
def test_missing_data_with_a_recipe_are_one_line_that_names_it(tmp_path: Path, name: str):
    content = {**read_yaml(ROOT / f"data/{name}.yaml"), "path": str(tmp_path / "set")}
    with pytest.raises(InputError, match=r"data of .* are missing in .*set, .*docs/DATA\.md, section Recipes"):
        check_dataset(content, allow_scripts=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "argoverse",
            r"argoverse is not fetched by a command, expected coco, face_mask or voc: .*docs/DATA\.md, section Recipes",
        ),
        (
            "cocoa",
            r"unknown data set cocoa, expected coco, face_mask or voc; .*docs/DATA\.md, section Recipes, has argo",
        ),
    ],
)
def test_the_command_names_the_recipes(name: str, message: str):
    with pytest.raises(InputError, match=message):
        get_dataset.main([name])


# -- weights -----------------------------------------------------------------------------------------------------------


def test_weights_by_command(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(downloads, "RELEASES_URL", site.url)
    for name in downloads.RELEASED:
        site.offer(f"/v6.2/{name}", bytes(downloads.SMALLEST_BYTES))
    download_weights.main(["yolov5n.pt"])
    assert [path.name for path in tmp_path.iterdir()] == ["yolov5n.pt"]
    download_weights.main([])
    assert {path.name for path in tmp_path.iterdir()} == set(downloads.RELEASED)
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
