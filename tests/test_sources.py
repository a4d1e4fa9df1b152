"""LoadImages: which files it finds, what it yields, what it does about unreadable ones."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.dataset.images import read_image
from utils.detection import sources
from utils.detection.sources import LoadImages, find_files
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER


def write_image(file: Path, height: int = 60, width: int = 100, colour: tuple[int, int, int] = (10, 20, 30)) -> Path:
    picture = np.full((height, width, 3), colour, np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(file.suffix, picture)[1].tobytes())
    return file


def write_video(file: Path, frame_count: int, height: int = 48, width: int = 64) -> Path:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, (width, height))
    if not writer.isOpened():
        pytest.skip("this build of OpenCV writes no video")
    for index in range(frame_count):
        writer.write(np.full((height, width, 3), index * 20, np.uint8))
    writer.release()
    return file


def names(files) -> list[str]:
    return [Path(file).name for file in files]


@pytest.fixture
def heard(monkeypatch) -> list[str]:
    """Warnings of the module."""
    messages: list[str] = []
    monkeypatch.setattr(sources.LOGGER, "warning", messages.append)
    return messages


def test_one_image(tmp_path):
    file = write_image(tmp_path / "a.png")
    ((path, rgb, bgr, capture, text),) = LoadImages(file, img_size=64)
    assert path == str(file)
    assert rgb.shape == (3, 64, 64) and rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    assert bgr.shape == (60, 100, 3)
    assert rgb[:, 32, 32].tolist() == [30, 20, 10]
    assert bgr[0, 0].tolist() == [10, 20, 30]
    assert capture is None
    assert text == f"image 1/1 {file}: "


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"img_size": 640}, (3, 384, 640)),
        ({"img_size": 640, "stride": 64}, (3, 384, 640)),
        ({"img_size": 640, "auto": False}, (3, 640, 640)),
        ({"img_size": [320, 640], "auto": False}, (3, 320, 640)),
    ],
)
def test_letterbox_options_are_used(tmp_path, options, shape):
    ((_, rgb, *_),) = LoadImages(write_image(tmp_path / "a.png", 720, 1280), **options)
    assert rgb.shape == shape


def test_folder_sorted_not_recursive_other_files_ignored(tmp_path):
    for name in ("b.jpg", "a.PNG", "deeper/c.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "notes.md").write_text("text")
    (tmp_path / "folder.jpg").mkdir()
    dataset = LoadImages(tmp_path, img_size=32)
    assert names(dataset.files) == ["a.PNG", "b.jpg"]
    assert len(dataset) == 2
    assert [text for *_, text in dataset] == [f"image {i}/2 {file}: " for i, file in enumerate(dataset.files, 1)]
    assert len(list(dataset)) == 2  # a second pass starts anew


def test_patterns(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.jpg", "a.png", "deeper/c.jpg"):
        write_image(tmp_path / name)
    assert names(find_files(str(tmp_path / "*.jpg"))) == ["a.jpg", "b.jpg"]
    assert names(find_files(str(tmp_path / "**" / "*.jpg"))) == ["a.jpg", "b.jpg", "c.jpg"]
    monkeypatch.chdir(tmp_path)
    assert find_files("*.png") == [str(tmp_path / "a.png")]


def test_lists_are_sorted(tmp_path):
    files = [str(write_image(tmp_path / name)) for name in ("b.jpg", "deeper/x.jpg", "a.jpg")]
    assert names(find_files([files[0], tmp_path / "deeper", files[2]])) == ["a.jpg", "b.jpg", "x.jpg"]


def test_list_file(tmp_path, monkeypatch):
    write_image(tmp_path / "set" / "a.jpg")
    write_image(tmp_path / "here" / "b.jpg")
    absolute = write_image(tmp_path / "c.jpg")
    listing = tmp_path / "set" / "list.txt"
    listing.write_text(f"./a.jpg\n\n  b.jpg\n{absolute}\n")
    monkeypatch.chdir(tmp_path / "here")
    assert names(LoadImages(listing).files) == ["a.jpg", "b.jpg", "c.jpg"]


def test_images_of_a_list_file_that_are_gone_are_named_and_skipped(tmp_path, heard):
    present = write_image(tmp_path / "a.jpg")
    listing = tmp_path / "list.txt"
    listing.write_text(f"./gone.jpg\n{present}\n./gone.mp4\n")
    images = LoadImages(listing)
    assert [Path(item[0]).name for item in images] == ["a.jpg"]
    assert images.skipped == 2
    assert "gone.jpg" in " ".join(heard)
    assert "gone.mp4" in " ".join(heard)


@pytest.mark.parametrize("line", ["gone", "./gone", "rtsp://camera/1"])
def test_list_file_with_a_line_that_cannot_be_read(tmp_path, line):
    listing = tmp_path / "list.txt"
    listing.write_text(line)
    with pytest.raises(MissingFileError) as caught:
        LoadImages(listing)
    assert str(listing) in str(caught.value)
    assert line.removeprefix("./") in str(caught.value)


def test_nothing_is_left_out_unsaid(tmp_path, caplog, monkeypatch, heard):
    monkeypatch.setattr(LOGGER, "propagate", True)
    present = write_image(tmp_path / "in/a.jpg")
    (tmp_path / "in/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "notes.doc").touch()
    listing = tmp_path / "list.txt"
    listing.write_text(f"{present}\n./notes.doc\n")
    assert names(LoadImages(listing).files) == ["a.jpg"]
    assert "line 2, './notes.doc' is left out: it is neither an image nor a video" in caplog.text
    images = LoadImages(tmp_path / "in")
    assert len(list(images)) == 1 and images.skipped == 1 and "gone.jpg" in " ".join(heard)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX")
def test_named_pipes_are_skipped_and_not_waited_for(tmp_path, heard):
    write_image(tmp_path / "in/a.jpg")
    for name in ("b.jpg", "c.mp4"):
        os.mkfifo(tmp_path / "in" / name)
    (tmp_path / "in/folder.jpg").mkdir()
    images = LoadImages(tmp_path / "in")
    assert names([item[0] for item in images]) == ["a.jpg"] and images.skipped == 2
    assert all(f"{name} " in " ".join(heard) for name in ("b.jpg", "c.mp4")) and "folder.jpg" not in " ".join(heard)
    listing = tmp_path / "list.txt"
    listing.write_text("./in/a.jpg\n./in/c.mp4\n")
    images = LoadImages(listing)
    assert len(list(images)) == 1 and images.skipped == 1


def test_list_file_within_a_list_file_is_refused(tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("./list.txt")
    with pytest.raises(InputError, match="lists another list"):
        LoadImages(listing)


def test_letters_of_other_alphabets(tmp_path):
    file = write_image(tmp_path / "口罩 é" / "图片.jpg")
    assert [path for path, *_ in LoadImages(tmp_path / "口罩 é")] == [str(file)]


def test_unreadable_images_are_named_counted_and_skipped(tmp_path, heard):
    good = [write_image(tmp_path / name) for name in ("a.jpg", "z.jpg")]
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("no image")
    dataset = LoadImages(tmp_path, img_size=32)
    for _ in range(2):
        heard.clear()
        assert [path for path, *_ in dataset] == [str(file) for file in good]
        assert dataset.skipped == 2
        assert len(heard) == 2
        assert "empty.jpg" in heard[0] and "text.png" in heard[1]


def test_videos_come_after_images(tmp_path):
    video = write_video(tmp_path / "a.avi", frame_count=3)
    image = write_image(tmp_path / "b.jpg")
    dataset = LoadImages(tmp_path, img_size=64)
    assert dataset.mode == "image"
    seen = []
    for path, rgb, bgr, capture, text in dataset:
        seen.append((path, dataset.mode, dataset.frame, text))
        if dataset.mode == "video":
            assert capture is dataset.cap and capture.isOpened()
            assert rgb.shape == (3, 64, 64) and bgr.shape == (48, 64, 3)
            assert abs(int(bgr[20, 20, 0]) - (dataset.frame - 1) * 20) <= 6
    assert seen == [
        (str(image), "image", 0, f"image 1/2 {image}: "),
        *((str(video), "video", frame, f"video 2/2 ({frame}/3) {video}: ") for frame in (1, 2, 3)),
    ]
    assert dataset.frames == 3
    assert dataset.cap is None  # released


def test_unreadable_video_is_named_counted_and_skipped(tmp_path, heard):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    image = write_image(tmp_path / "b.jpg")
    dataset = LoadImages(tmp_path, img_size=32)
    assert [path for path, *_ in dataset] == [str(image)]
    assert dataset.skipped == 1
    assert "a.mp4" in heard[0]


def test_a_stopped_pass_releases_the_video(tmp_path):
    dataset = LoadImages(write_video(tmp_path / "a.avi", frame_count=3), img_size=32)
    *_, first, _ = next(dataset)
    assert first.isOpened()
    iter(dataset)
    assert not first.isOpened()
    assert len(list(dataset)) == 3


def test_transparency_grey_and_depth_become_three_bytes(tmp_path):
    for name, picture in {
        "alpha.png": np.full((5, 7, 4), (1, 2, 3, 0), np.uint8),
        "grey.png": np.full((5, 7), 9, np.uint8),
        "deep.png": np.full((5, 7, 3), 512, np.uint16),
    }.items():
        (tmp_path / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        assert read_image(tmp_path / name).shape == (5, 7, 3)
        assert read_image(tmp_path / name).dtype == np.uint8
    assert read_image(tmp_path / "alpha.png")[0, 0].tolist() == [1, 2, 3]
    assert read_image(tmp_path / "grey.png")[0, 0].tolist() == [9, 9, 9]


def test_exif_orientation_is_followed(tmp_path):
    plain = cv2.imencode(".jpg", np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    tiff = b"MM\x00*\x00\x00\x00\x08\x00\x01" + b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00" + b"\x00" * 4
    block = b"Exif\x00\x00" + tiff  # one entry: orientation 6, a quarter turn
    file = tmp_path / "turned.jpg"
    file.write_bytes(plain[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + plain[2:])
    assert read_image(file).shape == (60, 40, 3)


@pytest.mark.parametrize("source", ["gone.jpg", "gone", "https://host/photo.jpg"])
def test_missing_source(source):
    with pytest.raises(MissingFileError) as caught:
        LoadImages(source)
    assert source in str(caught.value)


def test_nothing_usable(tmp_path):
    for source in (tmp_path, str(tmp_path / "*"), []):
        with pytest.raises(InputError, match="no image or video in"):
            LoadImages(source)
    (tmp_path / "notes.md").write_text("text")
    with pytest.raises(InputError, match="supported suffixes are bmp"):
        LoadImages(tmp_path / "notes.md")


def test_missing_image_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jpg cannot be read: No such file"):
        read_image(tmp_path / "gone.jpg")
