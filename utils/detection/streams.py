"""Cameras and network streams: the newest frame of each, read by a thread per stream."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import cv2
import numpy as np

from utils.detection.captures import StreamCapture
from utils.detection.sources import IMG_FORMATS, VID_FORMATS, network_image
from utils.detection.video_files import opencv_path, usable_rate
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER, log_once
from utils.storage.text_lists import TextList

HIGHEST_RATE = 1000.0  # frames per second: a higher value is the clock rate of the protocol, such as 90000
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0  # between attempts to reach a lost stream; doubled each time
UNSAFE = re.compile(r"[|@#!¡·$€%&()=?¿^*;:,¨\u00b4><+]")  # characters of an address that a file name should not have
YOUTUBE_HOSTS = ("youtube.com", "youtu.be")

StreamItem = tuple[list[str], np.ndarray, list[np.ndarray], None, str]


def is_stream(source: str | Path) -> bool:
    """Tell whether ``source`` is read as a stream: a camera number, an address, a .streams file, a .txt file of these.

    The http(s) address of an image or video file is not a stream, as it is downloaded (``remote_file_name``). Raises
    InputError for a .txt file that lists streams and other things.
    """
    text = str(source)
    if text.isdecimal() or text.lower().endswith(".streams"):
        return True
    if "://" in text:
        return remote_file_name(text) is None
    if not text.lower().endswith(".txt") or not Path(text).is_file():
        return False
    line_is_stream = [line.isdecimal() or "://" in line for line in _lines(Path(text))]
    if any(line_is_stream) and not all(line_is_stream):
        raise InputError(f"{text} lists streams as well as files: put the streams into a separate list")
    return any(line_is_stream)


def remote_file_name(source: str | Path) -> str | None:
    """Name of the file at the end of an http(s) address, if it is an image or a video; else None."""
    if "://" not in str(source):
        return None
    address = _split(str(source))
    name = Path(unquote(address.path)).name
    is_file = address.scheme in ("http", "https") and Path(name).suffix[1:].lower() in IMG_FORMATS + VID_FORMATS
    return name if is_file else None


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError as error:
        raise InputError(f"{address} is not a valid address ({error})") from error


def clean_name(source: str) -> str:
    """Replace characters that are unsafe in file names by ``_``: rtsp://a:b@h/x -> rtsp_//a_b_h/x."""
    return UNSAFE.sub("_", source)


class LoadStreams:
    """Iterate over the newest frames of one or several streams, until the last of them has ended.

    Each item holds the streams that have a new frame: (their cleaned names, letterboxed RGB (B, 3, h, w) uint8,
    originals as BGR (H, W, 3), None, ''). Frames that arrive faster than they are taken are dropped; none comes twice.
    A lost stream is left out until it can be reached again; attempts never stop. A video file in the list plays once,
    in real time. Pictures that cannot be decoded are left out. The resolution of a stream may change, see
    ``utils.detection.captures.StreamCapture``.

    Args:
        sources: a text file with a source on each line, or one source: a camera number, an address, a video file.
        img_size: side of the square to fit into, or (height, width), in pixels.
        stride: the letterboxed sides are multiples of this.
        auto: pad to the smallest rectangle of such sides (the whole ``img_size`` if the streams differ in shape).
        vid_stride: take only every n-th frame.

    Attributes:
        sources: cleaned names of all streams.
        mode: 'stream'.
        count: number of the item, from 0.
        rates: frames per second of all streams, after ``vid_stride``.
        indices, frames: the streams in the item, and the number of each one's frame, from 0.
        skipped: number of sources that could not be opened (each is named in the log).

    Raises:
        MissingFileError: there is no such list.
        InputError: the list is empty, or none of its sources can be opened.
    """

    mode = "stream"
    incomplete = 0  # as in LoadImages; lost streams are reconnected instead

    def __init__(
        self,
        sources: str | Path = "streams.txt",
        img_size: int | Sequence[int] = 640,
        stride: int = 32,
        auto: bool = True,
        vid_stride: int = 1,
    ) -> None:
        """Open all streams and start to read."""
        self.img_size, self.stride, self.auto = img_size, stride, auto
        self.count = -1
        self.indices: list[int] = []
        self.frames: list[int] = []
        self._changed = threading.Condition()
        self._readers: list[_Reader] = []
        problems: list[InputError] = []
        for source in _listed(str(sources)):
            try:
                self._readers.append(_Reader(source, vid_stride, self._changed))
            except InputError as error:
                problems.append(error)
        if not self._readers:
            raise problems[0]
        self.skipped = len(problems)
        for problem in problems:
            LOGGER.warning(f"skipped: {problem}")
        self.sources = [clean_name(reader.source) for reader in self._readers]
        self.rates = [reader.rate / vid_stride for reader in self._readers]
        for reader in self._readers:
            reader.start()

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self._readers)

    def __iter__(self) -> LoadStreams:
        return self

    def __next__(self) -> StreamItem:
        """Wait for a new frame."""
        with self._changed:
            while not (fresh := [index for index, reader in enumerate(self._readers) if reader.latest is not None]):
                if all(reader.ended for reader in self._readers):
                    raise StopIteration
                self._changed.wait(timeout=1)
            pictures, self.frames = [], []
            for index in fresh:
                picture, frame = self._readers[index].take()
                pictures.append(picture)
                self.frames.append(frame)
        self.indices = fresh
        self.count += 1
        auto = self.auto and len({picture.shape for picture in pictures}) == 1
        if self.auto and not auto:
            log_once("the streams differ in shape: each is padded to the whole image size, which takes longer")
        batch = np.stack([network_image(picture, self.img_size, self.stride, auto) for picture in pictures])
        return [self.sources[index] for index in fresh], batch, pictures, None, ""

    def close(self) -> None:
        """Stop reading and release the sources."""
        for reader in self._readers:
            reader.stopped.set()
        for reader in self._readers:
            if reader.ident is None:  # never started
                reader.capture.release()
            else:
                reader.join(timeout=1)  # a reader that waits for a dead network ends with the process


class _Reader(threading.Thread):
    """Reads one source, and reconnects when it is lost; ``latest`` is its newest frame until that is taken."""

    def __init__(self, source: str, vid_stride: int, changed: threading.Condition) -> None:
        super().__init__(daemon=True, name=f"stream {source}")
        self.source, self.vid_stride, self.changed = source, vid_stride, changed
        self.stopped = threading.Event()
        self.latest: np.ndarray | None = None
        self.taken, self.next_report, self.ended = 0, 1, False
        self.capture = _open(source)
        if not self.capture.isOpened():
            raise InputError(f"cannot open the stream {source}: check the number or address, and that it is running")
        self.rate = usable_rate(self.capture.get(cv2.CAP_PROP_FPS), HIGHEST_RATE)
        self.finite = self.capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0  # a recording: plays once, at its own speed

    def take(self) -> tuple[np.ndarray, int]:
        """Take the newest frame, and its number. The caller must hold ``changed``."""
        if self.latest is None:
            raise RuntimeError("there is no new frame")
        picture, self.latest = self.latest, None
        self.taken += 1
        return picture, self.taken - 1

    def run(self) -> None:
        """Read until the source ends or ``stopped`` is set."""
        due = time.monotonic()
        try:
            self.pictures = self._pictures(damaged=0)
            while not self.stopped.is_set():
                picture = self._read()
                if picture is None and not self.stopped.is_set() and not self.finite:
                    picture = self._reconnect()
                if picture is None:
                    break
                with self.changed:
                    self.latest = picture
                    self.changed.notify_all()
                if self.finite:
                    due += self.vid_stride / self.rate
                    self.stopped.wait(max(due - time.monotonic(), 0))
        finally:  # in any case, as the main thread is waiting
            self.capture.release()
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def _pictures(self, damaged: int) -> StreamCapture:
        from_network = not (self.finite or self.source.isdecimal())
        return StreamCapture(self.capture, from_network, damaged)

    def _read(self) -> np.ndarray | None:
        """Read the next frame of interest; None if the source delivers none."""
        while not self.stopped.is_set():
            try:
                alive, picture = self.pictures.read(self.vid_stride)
            except cv2.error as error:
                LOGGER.warning(f"stream {self.source}: {error}")
                return None
            if self.pictures.damaged >= self.next_report:
                self.next_report = 2 * self.pictures.damaged  # not one line each
                LOGGER.warning(f"stream {self.source}: {self.pictures.damaged} picture(s) could not be decoded so far")
            if picture is not None or not alive:
                return picture
        return None

    def _reconnect(self) -> np.ndarray | None:
        """Try until a frame arrives, and return it; None once stopped."""
        LOGGER.warning(f"stream {self.source} is lost: reconnecting")
        wait, attempts = FIRST_WAIT_SECONDS, 0
        while not self.stopped.wait(wait):
            attempts += 1
            self.capture.release()
            try:
                self.capture = _open(self.source)
                self.pictures = self._pictures(self.pictures.damaged)
                picture = self._read()
            except InputError as error:  # the address could not be looked up
                LOGGER.warning(str(error))
                picture = None
            if picture is not None:
                LOGGER.warning(f"stream {self.source} is back after {attempts} attempt(s)")
                return picture
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        return None


def _open(source: str) -> cv2.VideoCapture:
    return cv2.VideoCapture(int(source) if source.isdecimal() else opencv_path(_media_address(source)))


def _media_address(source: str) -> str:
    """Address of the video itself: yt-dlp looks up pages of YouTube; other addresses are used as they are."""
    host = _split(source).hostname or ""
    if not any(host == known or host.endswith(f".{known}") for known in YOUTUBE_HOSTS):
        return source
    try:
        import yt_dlp  # an extra
    except ImportError as error:
        raise InputError(f"{source} is a page of YouTube, which needs yt-dlp: pip install yt-dlp") from error
    with yt_dlp.YoutubeDL({"quiet": True, "format": "best"}) as page:
        try:
            return str(page.extract_info(source, download=False)["url"])
        except (yt_dlp.utils.DownloadError, KeyError) as error:
            raise InputError(f"yt-dlp finds no video at {source} ({error})") from error


def _listed(sources: str) -> list[str]:
    """Sources that a list file names, or the one source itself."""
    if not sources.lower().endswith((".streams", ".txt")):
        return [sources]
    file = Path(sources)
    if not file.is_file():
        raise MissingFileError(f"no such list of streams: {sources}")
    if not (lines := _lines(file)):
        raise InputError(f"{sources} is empty: expected a camera number or an address on each line")
    return lines


def _lines(file: Path) -> list[str]:
    return [text for _, text in TextList(file).lines]
