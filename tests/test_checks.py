"""Image sizes, file look-up and data set descriptions: what is accepted, what comes out, what the errors say."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from utils import checks
from utils.checks import check_file, check_img_size, check_suffix, check_yaml
from utils.dataset import description
from utils.dataset.description import check_dataset
from utils.errors import InputError, MissingFileError
from utils.storage.files import write_yaml


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """An empty stand-in for the repository root; the current folder is another one."""
    root = tmp_path / "repository"
    for folder in ("data/hyps", "models/hub", "utils", "elsewhere"):
        (root / folder).mkdir(parents=True)
    monkeypatch.setattr(checks, "ROOT", root)
    monkeypatch.setattr(description, "WORK", root)
    monkeypatch.chdir(root / "elsewhere")
    return root


@pytest.fixture
def heard(monkeypatch) -> list[str]:
    """Warnings of the module."""
    messages: list[str] = []
    monkeypatch.setattr(checks.LOGGER, "warning", messages.append)
    monkeypatch.setattr(checks.LOGGER, "log", lambda level, text: messages.append(text))  # of log_once
    return messages


def make_images(folder: Path, *splits: str) -> Path:
    for split in splits:
        (folder / "images" / split).mkdir(parents=True)
    return folder


# -- image sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        (640, {}, 640),
        (641, {}, 672),
        (1, {}, 32),
        (30, {"floor": 64}, 64),
        ([640, 330], {"s": 64}, [640, 384]),
        ((320, 320), {"s": torch.tensor(32.0)}, [320, 320]),
    ],
)
def test_image_size(size, options, expected):
    assert check_img_size(size, **options) == expected


def test_only_a_changed_image_size_is_reported(heard):
    check_img_size([640, 320])
    assert heard == []
    check_img_size(641)
    assert len(heard) == 1
    assert "641" in heard[0] and "672" in heard[0]


@pytest.mark.parametrize("size", [0, -32, 640.5, "large", None, [640, 0], float("inf"), float("nan"), 10**400, 65537])
def test_bad_image_size(size):
    with pytest.raises(InputError, match="whole number of pixels"):
        check_img_size(size)


# -- files -------------------------------------------------------------------------------------------------------------


def test_existing_paths_and_nothing_are_unchanged(repository):
    Path("own.yaml").touch()
    assert check_file("own.yaml") == "own.yaml"
    assert check_file("") == ""
    assert check_file(repository / "data") == str(repository / "data")


@pytest.mark.parametrize("name", ["hyp.yaml", "hyps/hyp.yaml", "data/hyps/hyp.yaml"])
def test_file_is_found_in_the_repository(repository, name):
    file = repository / "data" / "hyps" / "hyp.yaml"
    file.touch()
    assert check_file(name) == str(file)
    assert check_yaml(name) == str(file)


def test_ambiguous_file_names_every_match(repository):
    files = [repository / "data" / "net.yaml", repository / "models" / "hub" / "net.yaml"]
    for file in files:
        file.touch()
    with pytest.raises(InputError) as caught:
        check_file("net.yaml")
    assert all(str(file) in str(caught.value) for file in files)


@pytest.mark.parametrize("name", ["none.yaml", "/nowhere/none.yaml", "no[n]e.yaml", "../none.yaml"])
def test_missing_file(repository, name):
    (repository / "data" / "none.yml").touch()
    with pytest.raises(MissingFileError) as caught:
        check_file(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_suffixes():
    check_suffix("weights", ".pt")  # none at all passes
    check_suffix(["a.pt", "b.PT"], ".pt")
    with pytest.raises(InputError, match=r"c\.txt should be a \.pt or \.onnx file"):
        check_suffix(["a.pt", "c.txt"], (".pt", ".onnx"))
    with pytest.raises(InputError, match=r"\.yaml or \.yml"):
        check_yaml("photo.jpg")


# -- data sets ---------------------------------------------------------------------------------------------------------


def test_description_file(repository):
    make_images(repository / "sets" / "mask", "train", "val")
    file = repository / "data" / "mask.yaml"
    content = {"path": "sets/mask", "train": "images/train", "val": ["images/val"], "test": None, "nc": 2}
    write_yaml(file, {**content, "names": ["face", "mask"], "licence": "free"})
    folder = repository / "sets" / "mask"
    assert check_dataset("mask.yaml") == {
        "path": str(folder),
        "train": str(folder / "images" / "train"),
        "val": [str(folder / "images" / "val")],
        "test": None,
        "nc": 2,
        "names": {0: "face", 1: "mask"},
        "licence": "free",
    }


def test_a_dict_is_not_modified_and_may_be_checked_again(repository):
    make_images(repository, "train", "val")
    content = {"train": "images/train", "val": ["images/val"], "names": {1: "b", 0: "a"}}
    before = copy.deepcopy(content)
    checked = check_dataset(content)
    assert content == before
    assert list(checked["names"].items()) == [(0, "a"), (1, "b")]
    assert checked["nc"] == 2
    assert check_dataset(checked) == checked


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"names": ["a", "b"]}, {0: "a", 1: "b"}),
        ({"names": ["a", 7], "nc": 2}, {0: "a", 1: "7"}),
        ({"names": {"0": "a", "1": "b"}, "nc": 2}, {0: "a", 1: "b"}),
        ({"nc": 2}, {0: "class0", 1: "class1"}),
    ],
)
def test_class_names(repository, given, expected):
    checked = check_dataset(given, splits=())
    assert checked["names"] == expected
    assert checked["nc"] == 2


def test_names_that_yaml_takes_for_something_else_have_to_be_quoted(repository):
    file = repository / "data" / "answers.yaml"
    for text, read in (("yes", "True"), ("NO", "False"), ("~", "None"), ("", "None")):
        file.write_text(f"names:\n  0: maybe\n  1: {text}\n")
        with pytest.raises(InputError, match=f"the name of class 1 as {read}: put it into quotes"):
            check_dataset(file, splits=())
        file.write_text(f"names: [maybe, '{text or 'no'}', 7, 2.5, 2001-02-03]\n")
        assert check_dataset(file, splits=())["names"] == dict(
            enumerate(["maybe", text or "no", "7", "2.5", "2001-02-03"])
        )


@pytest.mark.parametrize("names", ["[7, 007, a]", "{0: 7, 1: 007, 2: a}", "[7, 0x7, a]", "[7, +7, '08']"])
def test_names_that_yaml_takes_for_other_numbers_are_told(repository, heard, names):
    file = repository / "data" / "numbers.yaml"
    file.write_text(f"names: {names}\n")
    assert check_dataset(file, splits=())["names"][1] == "7"
    assert len(heard) == 1
    assert "of class 1 as 7: put it into quotes" in heard[0]
    file.write_text("names: [7, '007', 2.5, 08, 2001-02-03]\n")
    assert list(check_dataset(file, splits=())["names"].values()) == ["7", "007", "2.5", "08", "2001-02-03"]
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ["a", "b"], "nc": 3}, "nc is 3 but names has 2 entries"),
        ({}, "neither 'names' nor 'nc'"),
        ({"nc": 0}, "nc must be"),
        ({"nc": "two"}, "nc must be .* got 'two'"),
        ({"nc": True}, "nc must be"),
        ({"names": "face"}, "names must be a list, or a mapping"),
        ({"names": {0: "a", 2: "b"}}, "must be 0 to 1 without a gap"),
        ({"names": {"first": "a"}}, "must be 0 to 0 without a gap"),
        ({"names": ["a"], "test": 5}, "'test' must be a path or a list of paths, got 5"),
        ({"names": ["a"], "test": ["x", None]}, "'test' must be a path"),
        ({"names": ["a"], "test": "~nobody_of_this_name/x"}, "'test' is not a path that can exist here"),
        ({"names": ["a"], "test": "x\0y"}, "'test' is not a path that can exist here"),
        ({"names": ["a"], "path": "x\0y"}, "'path' is not a path that can exist here"),
        ({"names": ["a"], "path": ["x"]}, "path must be a folder"),
        ({"names": ["a", ""]}, "name of class 1 must be a text of 1 to 1000"),
        ({"names": ["a", " \t"]}, "name of class 1 must be a text of 1 to 1000"),
        ({"names": ["x" * 1001]}, "name of class 0 must be a text of 1 to 1000"),
        ({"names": ["a", ["b"]]}, "name of class 1 must be a text, got"),
        ({"names": {0: {1: "a"}}}, "name of class 0 must be a text, got"),
        ({"names": {float("inf"): "a"}}, "must be 0 to 0 without a gap"),
        ({"nc": 10**18}, "nc must be .* from 1 to 100000, got 1000000000000000000"),
        ({"nc": 10**5000}, "nc must be .*, got a number of 5001 digits"),
        ({"nc": float("nan")}, "nc must be"),
        ({"names": ["a"] * 100_001}, "at most 100000"),
        ({"names": "x" * 10**6}, "names must be a list"),
        ({"names": ["a"], "nc": [["x" * 1000] * 1000] * 1000}, "nc must be"),
        ({"names": ["a"], "test": [["x" * 1000] * 1000] * 1000}, "'test' must be a path"),
    ],
)
def test_bad_descriptions(repository, given, message):
    with pytest.raises(InputError, match=message) as caught:
        check_dataset(given, splits=())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("where", ["repository root", "folder of the file"])
def test_relative_path_starts_at(repository, tmp_path, where):
    own = tmp_path / "own"
    own.mkdir()
    folder = make_images((repository if where == "repository root" else own) / "set", "train", "val")
    write_yaml(own / "own.yaml", {"path": "set", "train": "images/train", "val": "images/val", "names": ["a"]})
    assert check_dataset(own / "own.yaml")["path"] == str(folder)


def test_repository_root_goes_first_and_content_decides(repository, tmp_path):
    own = make_images(tmp_path / "own", "train", "val")
    write_yaml(own / "own.yaml", {"train": "images/train", "val": "images/val", "names": ["a"]})
    make_images(repository, "train")  # only half of it
    assert check_dataset(own / "own.yaml")["path"] == str(own)
    make_images(repository, "val")
    assert check_dataset(own / "own.yaml")["path"] == str(repository)


@pytest.mark.parametrize("kind", [str, lambda entry: [entry]])
def test_a_leading_parent_folder_that_leads_nowhere_is_left_out(repository, tmp_path, monkeypatch, kind):
    """Roboflow's layout: ../train/images in the YAML file that lies beside train/."""
    said: list[str] = []
    monkeypatch.setattr(checks.LOGGER, "log", lambda level, text: said.append(text))
    own = tmp_path / "sets" / "mask"
    for split in ("train", "valid"):
        (own / split / "images").mkdir(parents=True)
    content = {"train": kind("../train/images"), "val": kind("../valid/images"), "test": kind("../test/images")}
    write_yaml(own / "data.yaml", {**content, "names": ["a"]})
    checked = check_dataset(own / "data.yaml")
    assert checked["train"] == kind(str(own / "train/images"))
    assert checked["val"] == kind(str(own / "valid/images"))
    assert checked["test"] == kind(str(own / "../test/images"))  # is nowhere
    assert check_dataset(own / "data.yaml") == checked  # the second time in silence
    expected = f"{own / 'data.yaml'}: ../train/images is not below {own}: train/images is used instead"
    assert said.count(expected) == 1 and len(said) == 2  # train and val
    for place in (repository, own.parent):
        (place / "train/images").mkdir(parents=True)
        (place / "valid/images").mkdir(parents=True)
    assert check_dataset(own / "data.yaml")["train"] == kind(str(own / "../train/images"))  # what is written goes first


def test_an_absolute_path_that_is_a_link_stays(repository, tmp_path):
    (tmp_path / "store/train").mkdir(parents=True)
    (tmp_path / "images").symlink_to(tmp_path / "store")
    checked = check_dataset({"path": str(tmp_path / "images"), "train": "train", "val": "train", "names": ["a"]})
    assert checked["train"] == str(tmp_path / "images/train")


def test_absolute_entries_win(repository, tmp_path):
    images = make_images(tmp_path / "own", "train") / "images" / "train"
    listing = tmp_path / "val.txt"
    listing.touch()
    checked = check_dataset({"path": "set", "train": str(images), "val": str(listing), "names": ["a"]})
    assert (checked["train"], checked["val"]) == (str(images), str(listing))


def test_only_requested_splits_have_to_exist(repository):
    make_images(repository, "val")
    content = {"train": "images/train", "val": "images/val", "names": ["a"]}
    checked = check_dataset(content, splits=("val",))
    assert checked["train"] == str(repository / "images" / "train")
    with pytest.raises(MissingFileError) as caught:
        check_dataset(content)
    assert "images/train" in str(caught.value)
    assert "images/val" not in str(caught.value)
    assert str(repository) in str(caught.value)


def test_absent_split_is_named(repository):
    with pytest.raises(InputError, match="no entry 'test'"):
        check_dataset({"val": "x", "test": "", "names": ["a"]}, splits=("test",))


def test_bad_description_files(repository, tmp_path):
    with pytest.raises(MissingFileError, match=r"nowhere\.yaml"):
        check_dataset("nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(InputError, match="got list"):
        check_dataset(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("train: [a\n")
    with pytest.raises(InputError, match="not valid YAML"):
        check_dataset(tmp_path / "broken.yaml")
    with pytest.raises(MissingFileError, match=r"set\.zip"):
        check_dataset("set.zip")
    with pytest.raises(InputError, match="is not a file"):
        check_dataset(tmp_path)
    with pytest.raises(InputError, match="is not a file"):
        check_dataset("")
