"""Reading videos and streams frame by frame, skipping damaged frames."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.detection.video_files import opencv_path
from utils.errors import InputError

DAMAGED_IN_A_ROW = 300  # a file counts as ended after as many undecodable frames
FAILURES_IN_A_ROW = 30  # a stream counts as lost after as many failures, or after PATIENCE_SECONDS of them
PATIENCE_SECONDS = 1.0
MOTION_JPEG = int.from_bytes(b"MJPG", "little")  # as returned by CAP_PROP_FOURCC
ISO_BOX_SUFFIXES = (".m4v", ".mov", ".mp4")


def open_file(file: str | Path) -> cv2.VideoCapture:
    """Open a video; its ``isOpened`` says whether it is one. Raises InputError for a path that OpenCV cannot use.

    Named pipes are refused, as opening one would wait for a writer.
    """
    if os.path.exists(file) and not os.path.isfile(file):
        raise InputError(f"{file} is not a regular file")
    return cv2.VideoCapture(opencv_path(file))


def next_frame(capture: cv2.VideoCapture) -> int | None:
    """Advance a file to the next decodable frame; returns how many frames were skipped, None at the end of the file.

    OpenCV's ``grab`` fails in the same way at a damaged frame and at the end of the file.
    """
    for skipped in range(DAMAGED_IN_A_ROW):
        try:
            if capture.grab():
                return skipped
        except cv2.error:
            continue
    return None


def retrieved(capture: cv2.VideoCapture) -> np.ndarray | None:
    """Decode the current frame of ``capture``: BGR (H, W, 3), or None if that is not possible."""
    try:
        success, picture = capture.retrieve()
    except cv2.error:
        return None
    return picture if success else None


def missing_bytes(file: str | Path) -> int:
    """Number of bytes missing at the end of a video, according to its own headers; 0 if none, or if unknown."""
    path = Path(file)
    if not path.is_file():
        return 0
    size = path.stat().st_size
    with path.open("rb") as stream:
        if path.suffix.lower() == ".avi":
            head = stream.read(8)
            return max(int.from_bytes(head[4:], "little") + 8 - size, 0) if head[:4] == b"RIFF" else 0
        end = 0
        while path.suffix.lower() in ISO_BOX_SUFFIXES and end < size:  # a sequence of boxes, ISO/IEC 14496-12
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
    """The pictures of a stream. A picture that cannot be decoded is skipped; the connection stays open.

    JPEG pictures of a stream are decoded here, each in its own size: OpenCV would stretch later ones to the size of the
    first. A new size of other streams, such as H.264, takes effect after reconnecting.

    Attributes:
        damaged: number of pictures so far that could not be decoded.
    """

    def __init__(self, capture: cv2.VideoCapture, from_network: bool, damaged: int = 0) -> None:
        """``capture`` is open; one ``from_network`` may deliver JPEG pictures; ``damaged`` counts from there."""
        self._capture = capture
        self._decodes = from_network and _gives_jpeg(capture) and capture.set(cv2.CAP_PROP_FORMAT, -1)
        self.damaged = damaged
        self._failures, self._since = 0, 0.0

    def read(self, stride: int) -> tuple[bool, np.ndarray | None]:
        """Read the ``stride``-th picture from here.

        Returns:
            False once the stream counts as lost; and the picture, BGR (H, W, 3), or None if it is damaged.

        Raises:
            cv2.error: by OpenCV.
        """
        start = time.monotonic()
        success = all(self._capture.grab() for _ in range(stride - 1))
        picture = None
        if success:
            success, picture = self._capture.read()
        if not success:  # a damaged picture or the end: the next calls will show which
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
    except cv2.error:  # for example, a size beyond OpenCV's limit
        return None
