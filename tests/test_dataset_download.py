"""Missing data sets: fetched as their YAML says, resumed, never half; scripts only with permission."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import train
import val
from data.scripts.converters import voc
from data.scripts.get_dataset import get
from tests.loopback import Site, site
from utils import general
from utils.dataset import download as dataset_download
from utils.dataset.description import check_dataset
from utils.dataset.download import DatasetFolder, is_incomplete
from utils.errors import InputError, MissingFileError
from utils.storage.files import ROOT, read_yaml, write_yaml

__all__ = ["site"]


def zipped(path: Path, files: dict[str, bytes]) -> bytes:
    """Write a zip archive and return its bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path.read_bytes()


def description(folder: Path, download: str, **more: object) -> dict[str, object]:
    return {
        "path": str(folder / "set"),
        "train": "images",
        "val": "images",
        "names": ["a"],
        "download": download,
    } | more


# -- archives ----------------------------------------------------------------------------------------------------------


def test_an_archive_is_fetched_once(site: Site, tmp_path: Path):
    content = zipped(tmp_path / "made.zip", {"set/images/a.jpg": b"a", "set/labels/a.txt": b""})
    data = description(tmp_path, site.offer("/set.zip", content))
    checked = check_dataset(data)
    assert checked["val"] == str(tmp_path / "set" / "images")
    assert (tmp_path / "set/images/a.jpg").read_bytes() == b"a"
    assert check_dataset(data) == checked
    assert len(site.requests) == 1
    assert not is_incomplete(tmp_path / "set")
    assert not list(tmp_path.rglob("set.zip"))


def test_without_permission_to_download_nothing_is_fetched(site: Site, tmp_path: Path):
    data = description(tmp_path, site.offer("/set.zip", b""))
    with pytest.raises(MissingFileError, match="images not found"):
        check_dataset(data, autodownload=False)
    assert site.requests == []


def test_an_archive_of_something_else_is_told(site: Site, tmp_path: Path):
    content = zipped(tmp_path / "made.zip", {"other/images/a.jpg": b"a"})
    with pytest.raises(MissingFileError, match="images not found: images"):
        check_dataset(description(tmp_path, site.offer("/set.zip", content)))
    with pytest.raises(InputError, match="is not an archive"):
        check_dataset(description(tmp_path / "elsewhere", site.offer("/set.exe", content)))


def test_a_half_download_is_missing_and_goes_on(site: Site, tmp_path: Path):
    root = tmp_path / "set"
    first, second = (site.offer(f"/{name}.zip", b"") for name in ("first", "second"))
    site.files["/first.zip"] = zipped(tmp_path / "made.zip", {"images/a.jpg": b"a"})
    with pytest.raises(InputError), DatasetFolder(root) as folder:
        folder.archive(first)
        folder.archive(second)  # no archive yet
    assert (root / "images/a.jpg").exists()
    with pytest.raises(MissingFileError, match="images not found"):
        check_dataset(description(tmp_path, ""))
    site.files["/second.zip"] = zipped(tmp_path / "made.zip", {"images/b.jpg": b"b"})
    before = len(site.requests)
    with DatasetFolder(root) as folder:
        folder.archive(first)
        folder.archive(second)
    assert [path for path, _ in site.requests[before:]] == ["/second.zip"]
    check_dataset(description(tmp_path, ""))
    with DatasetFolder(root) as folder:
        folder.archive(first)  # known to be done
    with DatasetFolder(root, again=True) as folder:
        folder.archive(first)
    assert [path for path, _ in site.requests[before + 1 :]] == ["/first.zip"]


def test_a_failed_download_leaves_room_for_data_from_elsewhere(site: Site, tmp_path: Path):
    data = description(tmp_path, site.url + "/gone.zip")
    with pytest.raises(InputError, match="404"):
        check_dataset(data)
    assert not (tmp_path / "set").exists()
    site.break_after = [1, 1, 1, 1]
    site.offer("/gone.zip", zipped(tmp_path / "made.zip", {"set/other": bytes(99)}))
    with pytest.raises(InputError, match="kept"):
        check_dataset(data)
    assert not is_incomplete(tmp_path / "set")
    assert list(tmp_path.rglob("gone.zip.part"))  # to be resumed
    (tmp_path / "set/images").mkdir()
    check_dataset(data)


def test_data_completed_by_hand(site: Site, tmp_path: Path):
    (tmp_path / "set/images").mkdir(parents=True)
    (tmp_path / "set" / dataset_download.MARKER).touch()
    for entry in (site.url + "/gone.zip", ""):
        with pytest.raises(InputError, match=rf"delete {tmp_path}/set/{dataset_download.MARKER}"):
            check_dataset(description(tmp_path, entry))
    (tmp_path / "set" / dataset_download.MARKER).unlink()
    check_dataset(description(tmp_path, ""))


def test_space_is_checked_before_anything_is_fetched(tmp_path: Path):
    with pytest.raises(InputError, match="make room"), DatasetFolder(tmp_path / "set") as folder:
        folder.require_space(1e9)


def test_a_data_set_in_a_zip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("utils.dataset.description.WORK", tmp_path / "repository")
    text = b"path: ../gone\ntrain: images\nval: images\nnames: [a]\ndownload: bash evil.sh\n"
    zipped(tmp_path / "mine.zip", {"mine/data.yaml": text, "mine/images/a.jpg": b"a"})
    checked = check_dataset(tmp_path / "mine.zip")
    assert checked["train"] == str(tmp_path / "datasets/mine/mine/images")
    stamp = (tmp_path / "datasets/mine/mine/data.yaml").stat().st_mtime_ns
    check_dataset(tmp_path / "mine.zip")
    assert (tmp_path / "datasets/mine/mine/data.yaml").stat().st_mtime_ns == stamp  # not unpacked again
    zipped(tmp_path / "bare.zip", {"images/a.jpg": b"a"})
    with pytest.raises(InputError, match="holds no YAML file"):
        check_dataset(tmp_path / "bare.zip")


# -- scripts -----------------------------------------------------------------------------------------------------------

PYTHON = """
# fetch it
from pathlib import Path

(Path(yaml['path']) / 'images').mkdir(parents=True)
(Path(yaml['path']) / 'names.txt').write_text(','.join(yaml['names']))
"""


def test_a_python_script_needs_permission(tmp_path: Path):
    data = description(tmp_path, PYTHON)
    with pytest.raises(InputError) as caught:
        check_dataset(data)
    message = str(caught.value)
    assert "a Python script of 3 line(s) that begins with 'from pathlib import Path'" in message
    assert "--allow-download-scripts" in message
    assert "the data of" in message  # it is they that are missing, not the YAML file
    assert "\n" not in message
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
def test_a_python_script_runs_with_permission(tmp_path: Path):
    script = f"from utils.general import download\n{PYTHON}assert callable(download)\n"
    assert check_dataset(description(tmp_path, script), allow_scripts=True)["nc"] == 1
    assert (tmp_path / "set/names.txt").read_text() == "a"


def test_a_shell_script_needs_permission_and_runs_with_it(tmp_path: Path, caplog):
    script = tmp_path / "get.sh"
    script.write_text(f"mkdir -p {tmp_path}/set/images\n")
    for command in (f"bash {script}", str(script)):
        with pytest.raises(InputError, match=f"would run the command '{command}'"):
            check_dataset(description(tmp_path, command))
        assert not (tmp_path / "set").exists()
        with caplog.at_level(logging.INFO, "yolov5"):
            check_dataset(description(tmp_path, command), allow_scripts=True)
        assert command in caplog.text
        (tmp_path / "set/images").rmdir()
        (tmp_path / "set").rmdir()


@pytest.mark.parametrize("script", ["bash -c 'exit 3'", "raise SystemExit(3)"])
def test_a_script_that_fails_stops_the_command(tmp_path: Path, script: str):
    with pytest.raises(InputError, match="its download failed"):
        check_dataset(description(tmp_path, script), allow_scripts=True)


@pytest.mark.parametrize("entry", ["no_such_converter", "../get_dataset", "label_files.py"])
def test_only_converters_of_the_project_are_run_without_permission(tmp_path: Path, entry: str):
    with pytest.raises(InputError, match="allow-download-scripts"):
        check_dataset(description(tmp_path, entry))


@pytest.mark.parametrize("command", [train, val])
def test_the_flag_reaches_the_data_set(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_yaml(tmp_path / "own.yaml", description(tmp_path, PYTHON))
    options = {"data": str(tmp_path / "own.yaml"), "project": str(tmp_path), "weights": "none.pt"}
    with pytest.raises(InputError, match="allow-download-scripts"):
        command.run(**options)
    with pytest.raises(MissingFileError, match=r"none\.pt"):
        command.run(**options, allow_download_scripts=True)
    assert (tmp_path / "set/names.txt").exists()


def test_the_download_function_of_scripts(site: Site, tmp_path: Path):
    addresses = [site.offer(f"/{i}.zip", zipped(tmp_path / "made.zip", {f"{i}.txt": b"x"})) for i in range(3)]
    general.download(addresses, dir=tmp_path / "here", threads=2)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["0.txt", "1.txt", "2.txt"]
    general.download(addresses[0], dir=tmp_path / "kept", delete=False)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["0.txt", "0.zip"]
    general.download(tmp_path / "made.zip", dir=tmp_path / "local")
    assert (tmp_path / "local/2.txt").exists() and (tmp_path / "made.zip").exists()


# -- converters --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_converter_by_name_fetches_a_data_set(tmp_path: Path):
    """From the YAML entry through the command of its own process, which continues after the archives' unpacking."""
    root = tmp_path / "set"
    data = description(tmp_path, "voc", train="images/train2007", val="images/test2007")
    with pytest.raises(InputError, match="failed, see above"):  # offline
        check_dataset(data)
    picture = cv2.imencode(".jpg", np.zeros((40, 80, 3), np.uint8))[1].tobytes()
    box = "<bndbox><xmin>9</xmin><ymin>11</ymin><xmax>24</xmax><ymax>30</ymax></bndbox>"
    marked = f"<size><width>80</width><height>40</height></size><object><name>cat</name>{box}</object>"
    for part, year in (("train", 2007), ("val", 2007), ("test", 2007), ("train", 2012), ("val", 2012)):
        unpacked = root / f"VOCdevkit/VOC{year}"
        for folder, name, content in (
            ("ImageSets/Main", f"{part}.txt", f"{part}0\n".encode()),
            ("Annotations", f"{part}0.xml", f"<annotation>{marked}</annotation>".encode()),
            ("JPEGImages", f"{part}0.jpg", picture),
        ):
            (unpacked / folder).mkdir(parents=True, exist_ok=True)
            (unpacked / folder / name).write_bytes(content)
    (root / dataset_download.MARKER).touch()
    done = "".join(f"{voc.SOURCE}/{archive}\n" for archive in voc.ARCHIVES)
    (root / dataset_download.STEPS).write_text(done)
    checked = check_dataset(data)
    assert (root / "labels/train2007/train0.txt").read_text() == "7 0.200000 0.500000 0.200000 0.500000\n"
    assert [path.name for path in Path(checked["val"]).iterdir()] == ["test0.jpg"]
    assert not is_incomplete(root)


def test_outlines_only_where_there_are_some(tmp_path: Path):
    with pytest.raises(InputError, match="--segments"):
        get("voc", tmp_path / "VOC", segments=True)


def test_another_folder_gets_a_description_that_finds_the_data_there(tmp_path: Path, monkeypatch, caplog):
    def fetch(folder, splits):
        for part in ("train", "val"):
            (tmp_path / "sets/images" / part).mkdir(parents=True)

    monkeypatch.setattr("data.scripts.converters.voc.fetch", fetch)
    written = read_yaml(ROOT / "data/VOC.yaml")
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, "yolov5"):
        assert get("voc", "sets") == tmp_path / "sets"
    file = tmp_path / "sets/VOC.yaml"
    assert f"Next: python train.py --data {file}" in caplog.text
    assert read_yaml(file) == written | {"path": str(tmp_path / "sets")}


PUBLISHED = {
    "Argoverse": 8, "coco": 80, "coco128": 80, "GlobalWheat2020": 1, "Objects365": 365, "SKU-110K": 1, "VisDrone": 10,
    "VOC": 20, "xView": 60,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_published_data_sets(name: str, count: int):
    content = read_yaml(ROOT / f"data/{name}.yaml")
    assert {"path", "train", "val", "nc", "names", "download"} <= set(content)
    assert content["nc"] == len(content["names"]) == len(set(content["names"].values())) == count
    assert content["path"] == f"../datasets/{name}"
    assert all(isinstance(text, str) for text in content["names"].values())
    expected = {"coco": "coco", "VOC": "voc"}.get(name, "docs/DATA.md#recipes")
    assert content["download"] == expected or (name == "coco128" and content["download"].endswith("/coco128.zip"))


def test_class_names_at_known_places():
    names = {name: read_yaml(ROOT / f"data/{name}.yaml")["names"] for name in PUBLISHED}
    assert [names["Objects365"][index] for index in (0, 5, 100, 364)] == ["Person", "Car", "Hanger", "Table Tennis"]
    assert [names["xView"][index] for index in (0, 5, 59)] == ["Fixed-wing Aircraft", "Small Car", "Tower"]
    assert list(names["VOC"].values()) == sorted(names["VOC"].values())
    assert names["VisDrone"][7] == "awning-tricycle"
