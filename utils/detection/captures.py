"""Videos and streams read frame by frame, over damaged ones."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.detection.video_files import opencv_path
from utils.errors import InputError

DAMAGED_IN_A_ROW = 300  # frames of a file that cannot be decoded: after so many it counts as ended
FAILURES_IN_A_ROW = 30  # of a stream: after so many, or after PATIENCE_SECONDS of them, it counts as lost
PATIENCE_SECONDS = 1.0
MOTION_JPEG = int.from_bytes(b"MJPG", "little")  # as CAP_PROP_FOURCC gives it
ISO_BOX_SUFFIXES = (".m4v", ".mov", ".mp4")


def open_file(file: str | Path) -> cv2.VideoCapture:
    """Open a video; ``isOpened`` tells if it is one. Raises InputError for a path that OpenCV cannot take.

    A named pipe is one of these: it would be waited for.
    """
    if os.path.exists(file) and not os.path.isfile(file):
        raise InputError(f"{file} is not a regular file")
    return cv2.VideoCapture(opencv_path(file))


def next_frame(capture: cv2.VideoCapture) -> int | None:
    """Advance a file to the next frame that can be decoded; returns how many were passed over, None at the end.

    OpenCV's ``grab`` fails at a damaged frame as it does at the end of the file.
    """
    for passed in range(DAMAGED_IN_A_ROW):
        try:
            if capture.grab():
                return passed
        except cv2.error:
            continue
    return None


def retrieved(capture: cv2.VideoCapture) -> np.ndarray | None:
    """The frame that ``capture`` is at, BGR (H, W, 3), or None if it cannot be decoded."""
    try:
        success, picture = capture.retrieve()
    except cv2.error:
        return None
    return picture if success else None


def missing_bytes(file: str | Path) -> int:
    """Return how many bytes a video was cut by, as its own headers have it; 0 if none, or if it does not tell."""
    path = Path(file)
    if not path.is_file():
        return 0
    size = path.stat().st_size
    with path.open("rb") as stream:
        if path.suffix.lower() == ".avi":
            head = stream.read(8)
            return max(int.from_bytes(head[4:], "little") + 8 - size, 0) if head[:4] == b"RIFF" else 0
        end = 0
        while path.suffix.lower() in ISO_BOX_SUFFIXES and end < size:  # boxes one after the other, ISO/IEC 14496-12
            stream.seek(end)
            head = stream.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:  # the length follows, in 64 bits
                length = int.from_bytes(head[8:], "big")
            if length < 8:  # 0: up to the end of the file
                break
            end += length
        return max(end - size, 0)


class StreamCapture:
    """The pictures of a stream. One that cannot be decoded costs that picture, not the connection.

    A stream of JPEG pictures is decoded here, each in its own size: OpenCV would stretch later ones to the size of the
    first. Of other streams, such as H.264, a new size is seen after reconnecting.

    Attributes:
        damaged: pictures so far that could not be decoded.
    """

    def __init__(self, capture: cv2.VideoCapture, from_network: bool, damaged: int = 0) -> None:
        """``capture`` is open; a live one ``from_network`` may give JPEG pictures; ``damaged`` is counted on."""
        self._capture = capture
        self._decodes = from_network and _gives_jpeg(capture) and capture.set(cv2.CAP_PROP_FORMAT, -1)
        self.damaged = damaged
        self._failures, self._since = 0, 0.0

    def read(self, stride: int) -> tuple[bool, np.ndarray | None]:
        """The ``stride``-th picture from here, BGR (H, W, 3); None if damaged, and first whether there may be more.

        May raise cv2.error.
        """
        start = time.monotonic()
        success = all(self._capture.grab() for _ in range(stride - 1))
        picture = None
        if success:
            success, picture = self._capture.read()
        if not success:  # a damaged picture, or the end: which of them, the next calls tell
            self._since = self._since if self._failures else start
            self._failures += 1
            return self._failures < FAILURES_IN_A_ROW and time.monotonic() < self._since + PATIENCE_SECONDS, None
        if self._decodes:
            picture = _decoded(picture)
        self.damaged += self._failures + (picture is None)
        self._failures = 0
        return True, picture


def _gives_jpeg(capture: cv2.VideoCapture) -> bool:
    if not capture.isOpened() or capture.getBackendName() != "FFMPEG":
        return False
    return int(capture.get(cv2.CAP_PROP_FOURCC)) == MOTION_JPEG


def _decoded(packet: Any) -> np.ndarray | None:
    try:
        return cv2.imdecode(packet.ravel(), cv2.IMREAD_COLOR)
    except cv2.error:  # such as a size beyond OpenCV's limit
        return None
