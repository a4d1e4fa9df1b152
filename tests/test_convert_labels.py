"""Labels in other formats become YOLO labels: the same boxes, the names kept, nothing left out unsaid."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.scripts import autosplit as autosplit_command
from data.scripts.annotations.image_index import ImageIndex
from data.scripts.convert_labels import command, run
from utils.dataset.description import check_dataset
from utils.dataset.image_files import find_images
from utils.dataset.labels import parse_label_file
from utils.dataset.splits import autosplit, split_images
from utils.errors import InputError, MissingFileError
from utils.storage.files import ROOT, read_yaml

WIDTH, HEIGHT = 40, 20


def picture(path: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Write a grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 127, np.uint8))
    return path


def coco(path: Path, count: int = 4, **changes) -> Path:
    """Write a COCO file of ``count`` images with a cat in each and a dog in the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [
            {"id": 10 + number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
            for number in range(count)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            *({"id": n, "image_id": 10 + n, "category_id": 3, "bbox": [4, 5, 8, 10]} for n in range(count)),
            {"id": 99, "image_id": 10, "category_id": 7, "bbox": [0, 0, 20, 20],
             "segmentation": [[0, 0, 20, 0, 20, 20]]},
        ],
    }  # fmt: skip
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def voc(path: Path, name: str, *objects: tuple, size: tuple = (WIDTH, HEIGHT), more: str = "") -> Path:
    """Write a VOC file with objects (name, xmin, ymin, xmax, ymax)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    items = "".join(
        f"<object><name>{item[0]}</name>{more}<bndbox><xmin>{item[1]}</xmin><ymin>{item[2]}</ymin><xmax>{item[3]}</xmax>"
        f"<ymax>{item[4]}</ymax></bndbox></object>"
        for item in objects
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    path.write_text(f"<annotation><filename>{name}</filename>{sides}{items}</annotation>", encoding="utf-8")
    return path


def labelme(path: Path, image: str, *shapes: tuple) -> Path:
    """Write a LabelMe file with shapes (label, type, points)."""
    content = {
        "imagePath": image, "imageWidth": WIDTH, "imageHeight": HEIGHT,
        "shapes": [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes],
    }  # fmt: skip
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A folder with four pictures."""
    for number in range(4):
        picture(tmp_path / f"{number}.png")
    return tmp_path


def test_coco_boxes_and_names(photographs):
    data = run(source=[str(coco(photographs / "labels.json"))])
    assert read_yaml(data)["names"] == {0: "cat", 1: "dog"}  # by id
    rows, _ = parse_label_file(photographs / "0.txt")
    np.testing.assert_allclose(rows, [[0, 0.2, 0.5, 0.2, 0.5], [1, 0.25, 0.5, 0.5, 1]], atol=1e-6)
    assert len(parse_label_file(photographs / "3.txt")[0]) == 1
    checked = check_dataset(str(data))
    assert len(find_images(checked["train"])) == 4


def test_split_is_repeatable_and_complete(photographs):
    data = run(source=[str(coco(photographs / "labels.json"))], split=[0.25, 0.25], seed=3)
    lists = {split: (photographs / f"{split}.txt").read_text() for split in ("train", "val", "test")}
    assert [len(text.split()) for text in lists.values()] == [2, 1, 1]
    assert sorted("".join(lists.values()).split()) == [f"./{number}.png" for number in range(4)]
    run(source=[str(photographs / "labels.json")], split=[0.25, 0.25], seed=3)
    assert {split: (photographs / f"{split}.txt").read_text() for split in lists} == lists
    assert read_yaml(data)["test"] == "test.txt"


def test_splits_that_are_apart(tmp_path, caplog):
    for split in ("train", "valid"):
        coco(tmp_path / split / "_annotations.coco.json", 2)
        for number in range(2):
            picture(tmp_path / split / f"{number}.png")
    data = run(
        source=[str(tmp_path / "train/_annotations.coco.json")], val=[str(tmp_path / "valid/_annotations.coco.json")],
        output=str(tmp_path / "set"),
    )  # fmt: skip
    assert data == tmp_path / "set/data.yaml"
    checked = check_dataset(str(data))
    assert [Path(image).parent.name for image in find_images(checked["val"])] == ["valid", "valid"]


def test_images_folder_gets_a_labels_folder(tmp_path):
    picture(tmp_path / "images/a.jpg")
    voc(tmp_path / "xml/a.xml", "a.jpg", ("cat", 4, 5, 12, 15))
    run(source=[str(tmp_path / "xml")])
    np.testing.assert_allclose(parse_label_file(tmp_path / "labels/a.txt")[0], [[0, 0.2, 0.5, 0.2, 0.5]], atol=1e-6)


def test_voc(tmp_path, caplog):
    for name in "abc":
        picture(tmp_path / f"{name}.jpg")
    voc(tmp_path / "a.xml", "a.jpg", ("dog", 4, 5, 12, 15), ("cat", 0, 0, 40, 20))
    voc(tmp_path / "b.xml", "b.png", ("dog", 4, 5, 12, 15), size=(0, 0))  # another suffix, no size
    voc(tmp_path / "c.xml", "c.jpg", ("dog", 4, 5, 12, 15), more="<difficult>1</difficult>")
    data = run(source=[str(tmp_path)], skip_difficult=True)
    assert read_yaml(data)["names"] == {0: "cat", 1: "dog"}
    np.testing.assert_allclose(parse_label_file(tmp_path / "b.txt")[0], [[1, 0.2, 0.5, 0.2, 0.5]], atol=1e-6)
    assert not (tmp_path / "c.txt").exists()
    assert "1 difficult objects are left out" in caplog.text


def test_labelme(tmp_path, caplog):
    picture(tmp_path / "a.png")
    labelme(
        tmp_path / "a.json", "..\\pictures\\a.png",
        ("cat", "rectangle", [[12, 15], [4, 5]]), ("dog", "polygon", [[0, 0], [20, 0], [20, 20]]),
        ("sun", "circle", [[20, 10], [24, 10]]), ("tail", "line", [[0, 0], [5, 5]]),
    )  # fmt: skip
    data = run(source=[str(tmp_path / "a.json")])
    assert read_yaml(data)["names"] == {0: "cat", 1: "dog", 2: "sun"}
    expected = [[0, 0.2, 0.5, 0.2, 0.5], [1, 0.25, 0.5, 0.5, 1], [2, 0.5, 0.5, 0.2, 0.4]]
    np.testing.assert_allclose(parse_label_file(tmp_path / "a.txt")[0], expected, atol=1e-6)
    assert "1 shapes without a label or an area are left out" in caplog.text


def test_outlines(photographs):
    run(source=[str(coco(photographs / "labels.json"))], segments=True)
    lines = (photographs / "0.txt").read_text().splitlines()
    assert lines[0].startswith("0 0.2")  # a box stays a box
    assert list(map(float, lines[1].split())) == [1, 0, 0, 0.5, 0, 0.5, 1]


def test_what_cannot_be_used_is_counted_and_quoted(photographs, caplog):
    boxes = [[4, 5, 8, 10], [-5, 5, 10, 10], [50, 5, 8, 10], [4, 5, 0, 10], "no box"]
    annotations = [{"id": n, "image_id": 10, "category_id": 3, "bbox": box} for n, box in enumerate(boxes)]
    annotations += [
        {"id": 20, "image_id": 10, "category_id": 4, "bbox": boxes[0]},
        {"id": 21, "image_id": 99, "category_id": 3, "bbox": boxes[0]},
        {"id": 22, "image_id": 10, "category_id": 3, "bbox": boxes[0], "iscrowd": 1},
        {"id": 23, "image_id": 10, "category_id": 3, "bbox": boxes[0]},
        "nothing",
    ]
    images = [
        {"id": 10, "file_name": "0.png", "width": WIDTH, "height": HEIGHT},
        {"id": 11, "file_name": "1.png", "width": HEIGHT, "height": WIDTH},
        {"id": 12, "file_name": "gone.png", "width": WIDTH, "height": HEIGHT},
    ]
    run(source=[str(coco(photographs / "labels.json", annotations=annotations, images=images))])
    rows = parse_label_file(photographs / "0.txt")[0]
    np.testing.assert_allclose(rows, [[0, 0.2, 0.5, 0.2, 0.5], [0, 0.0625, 0.5, 0.125, 0.5]], atol=1e-6)
    for text in (
        "2 objects without area, or outside of their image", "1 annotations without a box", "'no box'",
        "1 annotations of an unknown category", "1 annotations of an unknown image", "1 crowds (iscrowd)",
        "1 annotations are not mappings", "1 objects are marked twice", "1 boxes that leave their image are cut off",
        "2 annotated images are left out", "it was annotated with 20x40 pixels, but has 40x20",
        "3 images in these folders have no annotation", "the train images have no object of class 'dog'",
    ):  # fmt: skip
        assert text in caplog.text


def test_heading_of_roboflow_is_not_a_class(photographs):
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": "pets"},
        {"id": 7, "name": "dog", "supercategory": "pets"},
    ]
    data = run(source=[str(coco(photographs / "labels.json", categories=categories))])
    assert read_yaml(data)["names"] == {0: "cat", 1: "dog"}


def test_names_choose_classes_and_their_order(photographs, caplog):
    data = run(source=[str(coco(photographs / "labels.json"))], names=["dog", "bird"])
    assert read_yaml(data)["names"] == {0: "dog", 1: "bird"}
    assert len(parse_label_file(photographs / "0.txt")[0]) == 1
    assert "4 objects of classes that --names does not have are left out, the first: 'cat'" in caplog.text
    assert not (photographs / "1.txt").exists()


def test_other_labels_are_not_overwritten(photographs):
    labels = coco(photographs / "labels.json")
    (photographs / "1.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match=r"1\.txt is there and holds other labels: nothing was written.*--overwrite"):
        run(source=[str(labels)])
    assert not (photographs / "0.txt").exists() and not (photographs / "data.yaml").exists()
    run(source=[str(labels)], overwrite=True)
    assert (photographs / "1.txt").read_text().startswith("0 0.2")


def test_another_data_yaml_is_not_overwritten(photographs):
    labels = coco(photographs / "labels.json")
    (photographs / "data.yaml").write_text("train: images\n")
    with pytest.raises(
        InputError, match=r"data\.yaml is there and describes something else: nothing was written.*--output"
    ):
        run(source=[str(labels)])
    assert not (photographs / "0.txt").exists()
    assert run(source=[str(labels)], output=str(photographs / "other")) == photographs / "other" / "data.yaml"
    assert run(source=[str(labels)], overwrite=True) == run(source=[str(labels)])  # its own one


def test_classes_that_no_object_has(photographs, caplog):
    labels = coco(photographs / "labels.json")
    with pytest.raises(
        InputError, match=r"no object has one of the classes Cat; the annotations have cat \(4\), dog \(1\)"
    ):
        run(source=[str(labels)], names=["Cat"])
    run(source=[str(labels)], names=["cat", "bird"])
    assert "no object is called 'bird'; the annotations have cat (4), dog (1)" in caplog.text


def test_an_image_belongs_to_one_split(photographs, caplog):
    labels = coco(photographs / "labels.json")
    part = coco(photographs / "part.json", 1)
    with pytest.raises(InputError, match="no image of"):
        run(source=[str(labels)], val=[str(part)])
    assert "1 images belong to an earlier split already" in caplog.text


def test_stems_that_clash(tmp_path, caplog):
    for suffix in ("png", "jpg"):
        picture(tmp_path / f"a.{suffix}")
        voc(tmp_path / f"{suffix}.xml", f"a.{suffix}", ("cat", 4, 5, 12, 15))
    run(source=[str(tmp_path)])
    assert "1 images would share a label file with another image" in caplog.text
    assert len((tmp_path / "train.txt").read_text().split()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "labels.json is not JSON"),
        ("[" * 100_000, "labels.json is not JSON"),
        ('{"a": 1}', "neither a COCO file .* nor a LabelMe file"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": []}',
            r"images\[0\] must have an id and a file_name",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            r"categories\[1\] repeats the id 1",
        ),
        ('{"images": [], "annotations": [], "categories": []}', "holds no annotations of images"),
    ],
)
def test_a_bad_file_is_one_line(photographs, content, message):
    (photographs / "labels.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        run(source=[str(photographs / "labels.json")])
    assert "\n" not in str(caught.value)


def test_a_bad_file_in_a_folder_is_left_out(tmp_path, caplog):
    picture(tmp_path / "a.jpg")
    voc(tmp_path / "a.xml", "a.jpg", ("cat", 4, 5, 12, 15))
    (tmp_path / "b.xml").write_text("<annotation>")
    (tmp_path / "c.xml").write_text("<svg/>")
    run(source=[str(tmp_path)])
    assert "2 files cannot be read as annotations and are left out" in caplog.text
    assert (tmp_path / "a.txt").exists()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"source": []}, "no annotations given"),
        ({"source": ["a"], "val": ["b"], "split": [0.1]}, "divided already"),
        ({"source": ["a"], "split": [0.5, 0.5]}, "leave some for training"),
        ({"source": ["a"], "split": [2]}, "--split must lie in"),
        ({"source": ["a"], "names": ["x", "x"]}, "--names has a class twice"),
        ({"source": ["nowhere"]}, "no such file or folder: nowhere"),
    ],
)
def test_requests_that_make_no_sense(keywords, message):
    with pytest.raises(InputError, match=message):
        run(**keywords)


def test_images_that_are_not_there(tmp_path):
    picture(tmp_path / "set/other.png")
    coco(tmp_path / "set/labels.json")
    with pytest.raises(InputError, match=r"no image of .* was found: name their folder with --images"):
        run(source=[str(tmp_path / "set/labels.json")])
    with pytest.raises(MissingFileError, match="--images nowhere"):
        run(source=[str(tmp_path / "set/labels.json")], images=["nowhere"])


def test_command_line(photographs, caplog):
    caplog.set_level(logging.INFO)
    labels = coco(photographs / "my labels.json")
    command([str(labels), "--split", "0.25"])
    assert "Next: python train.py" in caplog.text
    assert "--data" in caplog.text and "images" in caplog.text
    helped = subprocess.run(
        [sys.executable, "data/scripts/convert_labels.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--split" in helped.stdout


def test_index_prefers_the_folders_of_the_reference(tmp_path):
    first, second = picture(tmp_path / "one/a.png"), picture(tmp_path / "two/a.png")
    index = ImageIndex([tmp_path])
    assert index.find("C:\\pictures\\two\\a.png") == second
    assert index.find("one/A.jpg") == first
    with pytest.raises(LookupError, match="2 images have that name"):
        index.find("a.png")
    with pytest.raises(LookupError, match="no such image"):
        index.find("b.png")


# -- autosplit ---------------------------------------------------------------------------------------------------------


def test_division_counts():
    images = [f"{number}.png" for number in range(10)]
    parts = split_images(images, {"train": 0.75, "val": 0.2, "test": 0.05})
    assert [len(part) for part in parts.values()] == [8, 1, 1]
    assert sorted(image for part in parts.values() for image in part) == images
    assert split_images(reversed(images), {"train": 0.75, "val": 0.2, "test": 0.05}) == parts
    assert split_images(images, {"train": 0.9, "val": 0.1, "test": 0.0}, seed=1).keys() == {"train", "val"}
    with pytest.raises(InputError, match="1 images cannot be divided into train and val"):
        split_images(["a.png"], {"train": 0.5, "val": 0.5})
    with pytest.raises(InputError, match="add up to 1"):
        split_images(images, {"train": 0.5, "val": 0.1})


def test_autosplit_as_of_yolov5(tmp_path):
    for number in range(5):
        picture(tmp_path / f"images/{number}.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/2.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "labels/4.txt").write_text("")
    files = autosplit(tmp_path / "images", (0.6, 0.2, 0.2))
    assert [file.name for file in files.values()] == [f"autosplit_{split}.txt" for split in ("train", "val", "test")]
    assert sorted("".join(file.read_text() for file in files.values()).split()) == [
        f"./images/{number}.png" for number in range(5)
    ]
    files = autosplit_command.main([str(tmp_path / "images"), "--annotated-only", "--shares", "0.5", "0.5"])
    assert sorted("".join(file.read_text() for file in files.values()).split()) == ["./images/2.png", "./images/4.png"]
    with pytest.raises(InputError, match="one of them above 0"):
        autosplit(tmp_path / "images", (0, 0))


def test_nothing_that_can_be_written_is_an_error(tmp_path, caplog):
    picture(tmp_path / "a.png")
    voc(tmp_path / "a.xml", "a.png", ("cat", 50, 5, 60, 15))
    with pytest.raises(InputError, match="no object is left to write"):
        run(source=[str(tmp_path)])
    assert "outside of their image, are left out, the first: 'cat' in" in caplog.text
    assert "box 50 5 60 15 of an image of 40x20 pixels" in caplog.text
    assert not (tmp_path / "data.yaml").exists()


def test_images_without_any_object(tmp_path):
    picture(tmp_path / "0.png")
    with pytest.raises(InputError, match="no object is marked in any of the images"):
        run(source=[str(coco(tmp_path / "labels.json", 1, annotations=[]))])
