"""Videos that are written: frame rates, encoders, sizes, and files that cannot be."""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.detection import video_files
from utils.detection.video_files import MOST_TICKS, VideoFile, can_encode, mpeg4_rate, opencv_path, usable_rate
from utils.errors import InputError
from utils.log import LOGGER

needs_encoder = pytest.mark.skipif(not can_encode("mp4v"), reason="this build of OpenCV writes no mp4v")


def write(target: Path, rate: float = 25.0, sizes: tuple[tuple[int, int], ...] = ((64, 48),) * 3) -> VideoFile:
    """Write frames of these (width, height) and finish."""
    video = VideoFile(target, rate)
    for width, height in sizes:
        video.write(np.full((height, width, 3), 90, np.uint8))
    video.close()
    return video


def read(file: Path) -> tuple[int, float, tuple[int, int]]:
    """(frames, frames per second, (width, height)) of a video."""
    capture = cv2.VideoCapture(str(file))
    rate, shape, count = capture.get(cv2.CAP_PROP_FPS), (0, 0), 0
    while (read := capture.read())[0]:
        shape, count = read[1].shape[1::-1], count + 1
    return count, rate, shape


RATES = [(119.983, 119.98), (240.003, 240.0), (66.667, 66.67), (29.97, 29.97), (59.94005994, 59.94), (23.976, 23.976),
         (10, 10), (1000.5, 1000.5), (90000, 65535), (1e-9, 0.01), (0.5, 0.5),
         (math.nan, 30), (-1, 30), (0, 30), (math.inf, 30), (-math.inf, 30)]  # fmt: skip


@pytest.mark.parametrize(("announced", "expected"), RATES)
def test_the_nearest_rate_that_mpeg4_takes(announced, expected):
    rate = mpeg4_rate(announced)
    assert rate == pytest.approx(expected, abs=1e-9)
    scale = next(10**digits for digits in range(9) if abs(round(rate * 10**digits) / 10**digits - rate) < 1e-9)
    assert 0 < round(rate * scale) <= MOST_TICKS  # the fraction that OpenCV makes of it


@needs_encoder
@pytest.mark.parametrize(("announced", "expected"), RATES)
def test_every_rate_gives_a_video(tmp_path, announced, expected):
    video = write(tmp_path / "a.mp4", announced)
    assert video.target == tmp_path / "a.mp4"
    count, rate, size = read(video.target)
    assert (count, size) == (3, (64, 48)) and rate == pytest.approx(expected, rel=1e-3)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_a_rate_is_kept_where_it_is_one():
    assert [usable_rate(rate) for rate in (12.5, 90000, 0, math.nan)] == [12.5, 90000, 30, 30]
    assert usable_rate(90000, 1000) == 30


@needs_encoder
def test_frames_of_another_size_keep_their_shape(tmp_path):
    video = write(tmp_path / "a.mp4", sizes=((64, 48), (96, 48), (48, 96)))
    capture = cv2.VideoCapture(str(video.target))
    frames = [capture.read()[1] for _ in range(3)]
    bright = [np.argwhere(np.abs(frame[:, :, 0].astype(int) - 90) < 12) for frame in frames]  # not the grey bars
    spans = [places.max(0) - places.min(0) + 1 for places in bright]
    for (height, width), wanted in zip(spans, (48 / 64, 48 / 96, 96 / 48), strict=True):
        assert height / width == pytest.approx(wanted, rel=0.15)


@needs_encoder
def test_what_mp4_cannot_hold_goes_into_the_next_format(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    video = write(tmp_path / "wide.mp4", sizes=((8200, 16),) * 2)
    assert video.target == tmp_path / "wide.avi" and read(video.target)[0] == 2
    assert "mp4v encoder refuses 8200x16 pixels" in caplog.text
    assert os.listdir(tmp_path) == ["wide.avi"]


def test_without_an_encoder_the_next_one_is_taken_or_that_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    real, refused = cv2.VideoWriter, {"mp4v"}

    class Lacking:
        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __new__(cls, file: str, codec: int, *rest: object) -> object:
            return real() if codec.to_bytes(4, "little").decode() in refused else real(file, codec, *rest)

    monkeypatch.setattr(cv2, "VideoWriter", Lacking)
    can_encode.cache_clear()
    try:
        assert write(tmp_path / "a.mp4").target.suffix == ".avi"
        assert "this OpenCV has no mp4v encoder" in caplog.text
        refused.add("MJPG")
        can_encode.cache_clear()
        with pytest.raises(InputError, match=r"b\.mp4: this OpenCV has no mp4v encoder; this OpenCV has no MJPG enc"):
            write(tmp_path / "b.mp4")
    finally:
        can_encode.cache_clear()
    assert os.listdir(tmp_path) == ["a.avi"]


def test_errors_of_the_file_system_are_told_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "gone/a.mp4")


def test_a_path_that_would_crash_opencv_is_refused():
    for name in ("a\udcff.mp4", "a\x00.mp4"):
        with pytest.raises(InputError, match="rename it"):
            opencv_path(name)


def test_a_video_that_did_not_get_onto_the_disk_is_noticed(tmp_path, monkeypatch):
    video = VideoFile(tmp_path / "a.mp4", 25)
    for _ in range(5):
        video.write(np.zeros((48, 64, 3), np.uint8))
    video._writer.release()
    os.truncate(video._draft, 10)  # as it ends when nothing more can be written
    with pytest.raises(InputError, match="only 0 of 5 frames are readable"):
        video.close()
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(video_files, "TOO_LITTLE_BYTES", 1 << 62)
    video.write(np.zeros((48, 64, 3), np.uint8))
    video._writer.release()
    os.truncate(video._draft, 10)
    with pytest.raises(OSError, match="No space left"):
        video.close()
