"""Annotations in other formats beside images without label files: the hint names them and the command that works."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from data.scripts.convert_labels import command
from tests.test_convert_labels import coco, labelme, picture, voc
from utils.dataloaders import create_dataloader
from utils.dataset.description import check_dataset
from utils.dataset.other_labels import annotation_hint
from utils.errors import InputError

NAMES = {0: "dog", 1: "cat"}


def pictures(folder: Path, count: int = 3) -> list[str]:
    """Paths of pictures in a folder."""
    return [str(picture(folder / f"{number}.png")) for number in range(count)]


def convert(hint: str) -> None:
    """Run the command of a hint."""
    words = shlex.split(hint.partition("then start again: ")[2])
    assert words[:2] == ["python", "data/scripts/convert_labels.py"]
    command(words[2:])


def test_nothing_is_said_where_nothing_lies(tmp_path):
    images = pictures(tmp_path / "images" / "train")
    (tmp_path / "images" / "notes.json").write_text('{"a": 1}')
    (tmp_path / "images" / "train" / "other.xml").write_text("<page/>")
    assert annotation_hint(images, NAMES) == ""


def test_xml_beside_the_images(tmp_path):
    folder = tmp_path / "my images"
    images = pictures(folder)
    for number in range(3):
        voc(folder / f"{number}.xml", f"{number}.png", ("cat", 4, 5, 12, 15))
    with pytest.raises(InputError, match=r"no labels to train with.*found 3 \.xml files of Pascal VOC in ") as caught:
        create_dataloader(folder, 64, 2, 32, augment=True, hyp={}, workers=0, names=NAMES)
    assert "'" in str(caught.value).partition("again: ")[2] and str(caught.value).endswith("--names dog cat")
    convert(str(caught.value))
    assert Path(images[0]).with_suffix(".txt").read_text().startswith("1 ")
    create_dataloader(folder, 64, 2, 32, augment=True, hyp={}, workers=0, names=NAMES)


def test_xml_in_a_folder_next_to_the_images(tmp_path):
    images = pictures(tmp_path / "images" / "train") + pictures(tmp_path / "images" / "val", 1)[:0]
    for number in range(3):
        voc(tmp_path / "Annotations" / f"{number}.xml", f"{number}.png", ("cat", 4, 5, 12, 15))
    hint = annotation_hint(images, ["cat"])
    assert f"--images {tmp_path / 'images'} --names cat" in hint
    convert(hint)
    assert (tmp_path / "labels" / "train" / "2.txt").exists()


def test_labelme_beside_the_images(tmp_path):
    images = pictures(tmp_path)
    for number in range(2):
        labelme(tmp_path / f"{number}.json", f"{number}.png", ("cat", "rectangle", [[4, 5], [12, 15]]))
    assert "found 2 .json files of LabelMe in" in annotation_hint(images)
    convert(annotation_hint(images))
    assert (tmp_path / "0.txt").exists()


@pytest.mark.parametrize("file", ["train/_annotations.coco.json", "annotations/instances_train.json", "labels.json"])
def test_a_coco_file(tmp_path, file):
    images = pictures(tmp_path / "train", 4)
    coco(tmp_path / file)
    hint = annotation_hint(images, NAMES)
    assert f"found the COCO file {Path(file).name} in" in hint
    convert(hint)
    assert (tmp_path / "train" / "0.txt").exists()


def test_the_file_of_the_split_is_chosen(tmp_path):
    images = pictures(tmp_path / "images" / "val2017")
    for name in ("instances_train2017", "instances_val2017"):
        coco(tmp_path / "annotations" / f"{name}.json")
    assert "instances_val2017.json --images" in annotation_hint(images)


def test_validation_warns_where_most_labels_are_missing(tmp_path, caplog):
    pictures(tmp_path)
    for number in range(3):
        voc(tmp_path / f"{number}.xml", f"{number}.png", ("cat", 4, 5, 12, 15))
    create_dataloader(tmp_path, 64, 2, 32, workers=0, names=NAMES)
    assert f"3 of the 3 images of {tmp_path} have no label file: found 3 .xml files" in caplog.text
    caplog.clear()
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    create_dataloader(tmp_path, 64, 2, 32, workers=0, names=NAMES)
    assert "label file" not in caplog.text


def test_an_export_of_roboflow(tmp_path):
    """Its YAML file names ../train/images, which lies beside it; VOC and COCO exports have no such folder."""
    for split in ("train", "valid"):
        for number in range(2):
            picture(tmp_path / split / "images" / f"{number}.png")
            (tmp_path / split / "labels").mkdir(exist_ok=True)
            (tmp_path / split / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['a']\n")
    data = check_dataset(tmp_path / "data.yaml")
    assert data["train"] == str(tmp_path / "train" / "images")
    loader, _ = create_dataloader(data["train"], 64, 2, 32, augment=True, hyp={}, workers=0, names=data["names"])
    assert len(loader.dataset.labels.rows) == 2  # type: ignore[attr-defined]
