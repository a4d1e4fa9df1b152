"""LoadStreams on a loopback server, on files and on a pretended camera: newest frames, lost streams, names, ends."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from utils.detection import streams
from utils.detection.streams import LoadStreams, clean_name, is_stream, remote_file_name
from utils.errors import InputError, MissingFileError


def jpeg(size: tuple[int, int] = (48, 64), grey: int = 90) -> bytes:
    """A picture of ``size`` (height, width)."""
    return cv2.imencode(".jpg", np.full((*size, 3), grey, np.uint8))[1].tobytes()


class MotionJpegServer:
    """A camera on loopback: each connection gets ``frames`` of ``pictures`` in turns, then it is cut."""

    def __init__(self, frames: int, pictures: Sequence[bytes] = (jpeg(),)) -> None:
        self.frames, self.connections = frames, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for number in range(outer.frames):
                        picture = pictures[number % len(pictures)]
                        self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n")
                        self.wfile.write(f"Content-Length: {len(picture)}\r\n\r\n".encode() + picture + b"\r\n")
                        time.sleep(0.02)
                except OSError:  # the reader is gone
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/camera"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Camera:
    """Stands for cv2.VideoCapture of a device: the brightness of a frame is its number; after a few it breaks off."""

    opened: ClassVar[list[object]] = []
    frames_per_opening = 5
    size = (48, 64)

    def __init__(self, source: object) -> None:
        self.opened.append(source)
        self.number = 0

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        return {cv2.CAP_PROP_FPS: 0.0, cv2.CAP_PROP_FRAME_COUNT: -1.0}[what]

    def getBackendName(self) -> str:
        return "V4L2"

    def grab(self) -> bool:
        self.number += 1
        time.sleep(0.02)
        return self.number <= self.frames_per_opening

    def read(self) -> tuple[bool, np.ndarray | None]:
        if not self.grab():
            return False, None
        return True, np.full((*self.size, 3), self.number, np.uint8)

    def release(self) -> None:
        pass


@pytest.fixture
def camera(monkeypatch) -> type[Camera]:
    """OpenCV's captures are pretended."""
    kind = type("OwnCamera", (Camera,), {"opened": []})
    monkeypatch.setattr(cv2, "VideoCapture", kind)
    return kind


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    """Reconnect at once."""
    monkeypatch.setattr(streams, "FIRST_WAIT_SECONDS", 0.02)


@pytest.fixture
def heard(monkeypatch) -> list[str]:
    """Warnings of the module."""
    messages: list[str] = []
    monkeypatch.setattr(streams.LOGGER, "warning", messages.append)
    return messages


def take(loader: LoadStreams, count: int) -> Iterator:
    """The first ``count`` items; then the loader is closed."""
    try:
        yield from (next(loader) for _ in range(count))
    finally:
        loader.close()


def write_video(file: Path, frames: int = 4, size: tuple[int, int] = (64, 48)) -> Path:
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 20, size)
    if not writer.isOpened():
        pytest.skip("this build of OpenCV writes no video")
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), index, np.uint8))
    writer.release()
    return file


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("0", True), ("12", True), ("rtsp://a:b@host/x.mp4", True), ("rtmp://host/live", True),
        ("http://host/camera", True), ("https://host/list.m3u8", True), ("cameras.streams", True),
        ("https://host/a.jpg", False), ("http://host/a.MP4?key=1", False), ("photo.jpg", False), ("0.jpg", False),
        ("gone.txt", False),
    ],
)  # fmt: skip
def test_what_is_a_stream(source, expected):
    assert is_stream(source) is expected


def test_a_text_file_is_a_list_of_streams_or_of_files(tmp_path):
    file = tmp_path / "list.txt"
    for text, expected in (("rtsp://a/1\n\n0\n", True), ("a.jpg\nb.jpg\n", False), ("", False)):
        file.write_text(text)
        assert is_stream(file) is expected
    file.write_text("rtsp://a/1\na.jpg\n")
    with pytest.raises(InputError, match="streams as well as files"):
        is_stream(file)


def test_names():
    assert clean_name("rtsp://a:b@h/x?y=1") == "rtsp_//a_b_h/x_y_1"  # measured with v6.2
    assert remote_file_name("https://h/a%20b.jpg?x=y.png#z") == "a b.jpg"
    assert remote_file_name("rtsp://h/a.mp4") is None


def test_a_stream_of_the_network():
    server = MotionJpegServer(frames=50)
    try:
        for names, batch, originals, capture, text in take(LoadStreams(server.address, img_size=64), 3):
            assert names == [clean_name(server.address)]
            assert batch.shape == (1, 3, 64, 64) and batch.dtype == np.uint8
            assert originals[0].shape == (48, 64, 3) and abs(int(originals[0].mean()) - 90) < 3
            assert (capture, text) == (None, "")
    finally:
        server.stop()


def test_a_lost_stream_reconnects(heard):
    server = MotionJpegServer(frames=3)
    try:
        loader = LoadStreams(server.address, img_size=64)
        numbers = []
        for _ in take(loader, 8):
            numbers += loader.frames
        assert numbers == list(range(8))
        assert server.connections >= 3
        assert any("is lost: reconnecting" in line for line in heard) and any("is back" in line for line in heard)
    finally:
        server.stop()


def test_a_garbage_picture_costs_that_picture(heard):
    garbage = np.random.default_rng(0).integers(0, 256, 900, dtype=np.uint8).tobytes()
    server = MotionJpegServer(70, [jpeg()] * 6 + [garbage])
    try:
        assert len(list(take(LoadStreams(server.address, img_size=64), 40))) == 40
        assert server.connections == 1
        assert any("1 picture(s) could not be decoded so far" in line for line in heard)
        assert len(heard) < 5 and not any("lost" in line for line in heard)  # not a line for each
    finally:
        server.stop()


def test_a_change_of_resolution_keeps_the_shape(heard):
    sizes = [(48, 64), (64, 96), (96, 48)]
    server = MotionJpegServer(90, [jpeg(size) for size in sizes for _ in range(5)])
    try:
        seen = {originals[0].shape[:2] for _, _, originals, _, _ in take(LoadStreams(server.address, img_size=64), 30)}
        assert seen == set(sizes) and server.connections == 1
    finally:
        server.stop()


def test_a_damaged_frame_of_a_camera_is_no_loss(camera, heard):
    camera.frames_per_opening = 1000
    grab = Camera.grab

    def sometimes(self) -> bool:
        return grab(self) and self.number % 4 != 0

    camera.grab = sometimes
    assert len(list(take(LoadStreams("0", img_size=64), 9))) == 9
    assert camera.opened == [0] and any("could not be decoded" in line for line in heard)


def test_a_source_of_a_list_that_cannot_be_opened_does_not_cost_the_others(tmp_path, heard):
    listing = tmp_path / "list.streams"
    listing.write_text(f"{tmp_path / 'gone.avi'}\n{write_video(tmp_path / 'a.avi')}\nhttp://127.0.0.1:9/none\n")
    loader = LoadStreams(listing, img_size=64)
    assert len(loader) == 1 and loader.skipped == 2
    assert [names for names, *_ in loader]
    assert [sum(name in line for line in heard) for name in ("gone.avi", "127.0.0.1:9/none")] == [1, 1]


def test_a_line_that_is_no_utf8_is_named(tmp_path, heard):
    listing = tmp_path / "list.streams"
    listing.write_bytes(f"{write_video(tmp_path / 'a.avi')}\n".encode() + "口.avi\n".encode("gbk"))
    loader = LoadStreams(listing, img_size=64)
    assert loader.skipped == 1 and any("\udcbf" in line and "is not valid UTF-8" in line for line in heard)
    loader.close()
    listing.write_bytes("\ufeffrtsp://host/1\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="UTF-16"):
        LoadStreams(listing)


def test_a_webcam_is_opened_by_its_number_and_reopened(camera, heard):
    loader = LoadStreams("3", img_size=64)
    assert loader.sources == ["3"] and loader.mode == "stream" and loader.rates == [30.0]  # it announces none
    assert len(list(take(loader, 7))) == 7
    assert camera.opened[:2] == [3, 3]


def test_no_frame_is_seen_twice_and_late_ones_are_dropped(camera):
    camera.frames_per_opening = 1000
    loader = LoadStreams("0", img_size=64)
    seen = []
    for _, _, (picture,), _, _ in take(loader, 6):
        seen.append(int(picture[0, 0, 0]))
        time.sleep(0.05)
    assert seen == sorted(set(seen))
    assert seen[-1] > len(seen)


def test_frame_stride(camera):
    camera.frames_per_opening = 1000
    loader = LoadStreams("0", img_size=64, vid_stride=3)
    numbers = [int(picture[0, 0, 0]) for _, _, (picture,), _, _ in take(loader, 4)]
    assert {number % 3 for number in numbers} == {0} and loader.rates == [10.0]


def test_streams_of_one_list(tmp_path):
    files = [write_video(tmp_path / name) for name in ("a.avi", "b.avi")]
    listing = tmp_path / "list.streams"
    listing.write_text("\n\n".join(map(str, files)) + "\n")
    loader = LoadStreams(listing, img_size=64)
    assert len(loader) == 2
    seen: dict[int, list[int]] = {0: [], 1: []}
    for names, batch, originals, _, _ in loader:  # ends when both files have ended
        assert len(names) == len(batch) == len(originals) == len(loader.indices) > 0
        for index, frame in zip(loader.indices, loader.frames, strict=True):
            seen[index].append(frame)
    assert all(frames == list(range(len(frames))) and frames for frames in seen.values())
    assert loader.count >= 1


def test_streams_of_different_shapes_are_padded_to_the_whole_size(tmp_path):
    files = [write_video(tmp_path / "a.avi", frames=20), write_video(tmp_path / "b.avi", frames=20, size=(48, 96))]
    listing = tmp_path / "list.streams"
    listing.write_text("\n".join(map(str, files)))
    loader = LoadStreams(listing, img_size=96)
    shapes = set()
    for _, batch, _, _, _ in loader:
        shapes.add((len(batch), batch.shape[2:]))
        time.sleep(0.06)  # longer than a frame of both
    assert (2, (96, 96)) in shapes


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot open the stream http://127\.0\.0\.1:9/none"):
        LoadStreams("http://127.0.0.1:9/none")
    with pytest.raises(InputError, match="not a valid address"):
        is_stream("http://[::1/camera")
    with pytest.raises(MissingFileError, match=r"gone\.streams"):
        LoadStreams(tmp_path / "gone.streams")
    (tmp_path / "empty.streams").touch()
    with pytest.raises(InputError, match="is empty"):
        LoadStreams(tmp_path / "empty.streams")


def test_a_page_of_youtube_needs_its_library(monkeypatch, camera):
    address = "https://www.youtube.com/watch?v=abc"
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with pytest.raises(InputError, match="pip install yt-dlp"):
        LoadStreams(address)

    class Page:
        def __init__(self, options: dict) -> None:
            pass

        def __enter__(self) -> Page:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def extract_info(self, page: str, download: bool) -> dict:
            assert (page, download) == (address, False)
            return {"url": "https://video.host/file"}

    library = types.SimpleNamespace(YoutubeDL=Page, utils=types.SimpleNamespace(DownloadError=OSError))
    monkeypatch.setitem(sys.modules, "yt_dlp", library)
    LoadStreams(address).close()
    assert camera.opened == ["https://video.host/file"]
    LoadStreams("https://notyoutube.com/x").close()
    assert camera.opened[-1] == "https://notyoutube.com/x"


def test_a_camera_that_breaks_off_inside_opencv_is_lost_not_fatal(camera, heard):
    def broken(self) -> tuple[bool, np.ndarray]:
        if len(self.opened) == 1:
            raise cv2.error("the driver is gone")
        return Camera.read(self)

    camera.read = broken
    assert len(list(take(LoadStreams("0", img_size=64), 2))) == 2
    assert any("the driver is gone" in line for line in heard)
