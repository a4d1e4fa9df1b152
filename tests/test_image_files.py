"""Finding the images of folders with links and of lists as people write them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from utils.dataset.image_files import find_images, listed_images
from utils.detection.sources import find_files
from utils.detection.streams import is_stream
from utils.errors import InputError


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr("utils.log._said", set())


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    for name in ("0.jpg", "1.jpg", "2.png"):
        (folder / name).touch()
    return folder


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# -- links ---------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return [os.path.relpath(image, folder) for image in find_images(folder)]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_that_leads_back_is_named_and_left_out(folder, caplog, target):
    (folder / "again").symlink_to(target)
    assert names(folder) == ["0.jpg", "1.jpg", "2.png"]
    assert len(messages(caplog)) == 1 and "again" in messages(caplog)[0]


def test_links_that_lead_to_each_other(folder, tmp_path, caplog):
    for own, other in (("a", "b"), ("b", "a")):
        (tmp_path / own).mkdir()
        (tmp_path / own / f"{own}.jpg").touch()
        (tmp_path / own / "link").symlink_to(tmp_path / other)
    (folder / "a").symlink_to(tmp_path / "a")
    (folder / "b").symlink_to(tmp_path / "b")
    assert names(folder) == ["0.jpg", "1.jpg", "2.png", "a/a.jpg", "b/b.jpg"]


def test_a_data_set_of_links_is_whole(folder, tmp_path, caplog):
    links = tmp_path / "links"
    links.mkdir()
    (links / "sub").symlink_to(folder)
    for number in range(3):
        (tmp_path / f"store{number}").write_text("")
        (links / f"{number}.jpg").symlink_to(tmp_path / f"store{number}")
    assert names(links) == ["0.jpg", "1.jpg", "2.jpg", "sub/0.jpg", "sub/1.jpg", "sub/2.png"]
    assert not messages(caplog)


def test_one_file_under_two_names_is_taken_once_by_its_own(folder, caplog):
    (folder / "copy.jpg").symlink_to("1.jpg")
    (folder / "0_copy.jpg").symlink_to("1.jpg")
    assert names(folder) == ["0.jpg", "1.jpg", "2.png"]
    assert ["0_copy.jpg is a link to an image that was already found: left out (and 1 others like it)" in text
            for text in messages(caplog)] == [True]  # fmt: skip


def test_folders_named_twice_are_searched_once(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert len(find_images([folder, tmp_path / "link", folder.parent])) == 3


def test_hidden_files_and_folders_are_passed_over_and_folders_are_no_images(folder):
    (folder / ".cache").mkdir()
    for name in (".cache/a.jpg", ".b.jpg"):
        (folder / name).touch()
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "c.jpg").touch()
    (folder / "broken.jpg").symlink_to("nowhere")
    assert names(folder) == ["0.jpg", "1.jpg", "2.png", "broken.jpg", "folder.jpg/c.jpg"]


# -- lists ---------------------------------------------------------------------------------------------------------


def listing(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder.parent.parent / "train.txt"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.parametrize(
    "line",
    ["{}", "\ufeff{}", '"{}"', "'{}'", "{}\r\n", "\n\n{}\n\n", "./images/train/0.jpg", "images/train/0.jpg",
     "images\\train\\0.jpg", '"images\\train\\0.jpg"', "images/val/../train/0.jpg"],
)  # fmt: skip
def test_spellings_of_a_line(folder, line):
    (folder.parent / "val").mkdir()
    file = listing(folder, line.format(folder / "0.jpg"))
    (image,) = find_images(file)
    assert os.path.samefile(image, folder / "0.jpg")


def test_relative_lines_start_at_the_working_folder_first(folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    (other / "images" / "train").mkdir(parents=True)
    (other / "images" / "train" / "0.jpg").touch()
    monkeypatch.chdir(other)
    assert find_images(listing(folder, "images/train/0.jpg\nimages/train/1.jpg")) == [
        str(tmp_path / "images/train/1.jpg"), "images/train/0.jpg"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{}/0", "a name without a suffix"),
        ("{}/0.jpg 10,10,20,20,0", "a path followed by other text: boxes belong in label files"),
        ("{}/0.jfif", "not a path with the suffix of an image"),
        ("{}", "a folder"),
        ("# {}/0.jpg", None),
    ],
)
def test_lines_that_cannot_be_used(folder, caplog, line, reason):
    text = line.format(folder)
    with pytest.raises(InputError, match=f"line 2, .* is {reason}.*expected" if reason else "expected the path"):
        find_images(listing(folder, f"\n{text}\n{text}"))
    caplog.set_level(logging.INFO)
    file = listing(folder, f"{folder / '0.jpg'}\n{text}\n{text}\n")
    assert find_images(file) == [str(folder / "0.jpg")]
    (message,) = messages(caplog)
    assert message.startswith(f"{file}: 2 lines are left out: each is {reason or 'a comment'}")
    assert message.endswith(f"the first is line 2, {text!r}")


def test_blank_lines_and_repetitions_are_counted(folder, caplog):
    caplog.set_level(logging.INFO)
    file = listing(folder, f"{folder}/0.jpg\n\n{folder}/0.jpg\n\n\n{folder}/1.jpg\n\n\n")
    assert len(find_images(file)) == 2
    assert messages(caplog) == [
        f"{file}: 3 lines are left out: each is blank; the first is line 2",
        f"{file}: line 3, '{folder}/0.jpg' is left out: it is a repetition",
    ]


def test_a_file_may_begin_with_the_sign_of_comments(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "#1.jpg").touch()
    assert find_images(listing(folder, "#1.jpg")) == ["#1.jpg"]


def test_images_that_are_gone_stay_for_the_scan(folder, caplog):
    file = listing(folder, "gone/a.jpg\n/gone/b.jpg")
    assert listed_images(file) == ["gone/a.jpg", "/gone/b.jpg"]
    assert os.getcwd() in messages(caplog)[0] and "line 1, 'gone/a.jpg'" in messages(caplog)[0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_refused(folder, encoding):
    file = listing(folder, f"{folder}/0.jpg", encoding)
    for function in (find_images, find_files, is_stream):
        with pytest.raises(InputError, match="is UTF-16 text, expected UTF-8"):
            function(str(file))


def test_bytes_of_another_encoding(folder):
    file = listing(folder, f"{folder}/0.jpg\n{folder}/é.jpg", "latin-1")
    with pytest.raises(InputError, match=r"not UTF-8 text \(line 2"):
        find_images(file)
    name = os.fsencode(folder) + b"/\xe9.jpg"
    try:
        with open(name, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert find_images(file) == [str(folder / "0.jpg"), os.fsdecode(name)]


def test_lists_of_detection_are_read_alike(folder, caplog):
    caplog.set_level(logging.INFO)
    file = listing(folder, f'# comment\n"{folder}/0.jpg"\r\nimages\\train\\1.jpg\n./images/train/2.png\n')
    assert [Path(found).name for found in find_files(file)] == ["0.jpg", "1.jpg", "2.png"]
    assert f"{file}: line 1, '# comment' is left out: it is a comment" in messages(caplog)
