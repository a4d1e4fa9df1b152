"""Writing videos, and the frame rates of those that are read."""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from utils.augmentations import letterbox
from utils.errors import InputError
from utils.log import LOGGER, log_once
from utils.storage.files import atomic_path

DEFAULT_RATE = 30.0  # frames per second, for a source that announces none
CODECS = (("mp4v", ".mp4"), ("MJPG", ".avi"))  # the first that works is used; OpenCV always has the second
MOST_TICKS = 65535  # per second, in a header of MPEG-4 (ISO/IEC 14496-2, vop_time_increment_resolution has 16 bits)
LEAST_RATE = 0.01
TOO_LITTLE_BYTES = 1 << 20  # of free space: a video that could not be finished has run out of it


def usable_rate(announced: float, most: float = math.inf) -> float:
    """Frames per second as announced by a source, or DEFAULT_RATE if that is not finite, not positive or > ``most``."""
    return announced if math.isfinite(announced) and 0 < announced <= most else DEFAULT_RATE


def mpeg4_rate(rate: float) -> float:
    """Frame rate nearest to ``rate`` that OpenCV can write as MPEG-4.

    OpenCV makes it a fraction whose denominator is a power of ten, and MPEG-4 takes numerators up to 65535: 119.983
    becomes 119.98.
    """
    rate = min(max(usable_rate(rate), LEAST_RATE), MOST_TICKS)
    scale = next(scale for scale in (1000, 100, 10, 1) if round(rate * scale) <= MOST_TICKS)
    return round(rate * scale) / scale


def opencv_path(path: str | Path) -> str:
    """Return ``path`` as text for OpenCV. Raises InputError for names that are not valid text: it crashes on these."""
    text = str(path)
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(f"{path} is not valid UTF-8, and OpenCV opens no video with such a path: rename it")
    return text


class VideoFile:
    """A video that appears once it is finished. Frames of another size than the first are letterboxed into it."""

    def __init__(self, target: Path, rate: float) -> None:
        """``target`` ends in .mp4 and becomes .avi if OpenCV cannot write that; ``rate`` is in frames per second."""
        self.target, self.rate = target, mpeg4_rate(rate)
        self._writer: cv2.VideoWriter | None = None
        self._draft = target
        self._finish = ExitStack()  # renames the draft, or removes it after an error
        self._size = (0, 0)
        self._frames = 0

    def write(self, frame: np.ndarray) -> None:
        """Add one frame (H, W, 3) BGR. Raises InputError or OSError with the reason if no video can be written."""
        size = frame.shape[1], frame.shape[0]
        if self._writer is None:
            self._writer = self._open(size)
        elif size != self._size:
            log_once(f"{self.target}: frames of {size[0]}x{size[1]} are fitted into {self._size[0]}x{self._size[1]}")
            frame = letterbox(frame, self._size[::-1], auto=False)[0]
        self._writer.write(frame)
        self._frames += 1

    def close(self) -> None:
        """Finish the file. Raises InputError, or OSError if the disk is full, if it is not complete."""
        if self._writer is None:
            return
        with self._finish:
            self._writer.release()
            self._writer = None
            self._read_back()

    def _open(self, size: tuple[int, int]) -> cv2.VideoWriter:
        """Start the file with the first codec that works, for frames of ``size`` (width, height)."""
        reasons: list[str] = []
        for codec, suffix in CODECS:
            self.target = self.target.with_suffix(suffix)
            try:
                writer = self._start(codec, size)
            except _RefusedError as error:
                reasons.append(str(error))
                continue
            if reasons:
                LOGGER.warning(f"{self.target} is written with {codec}: {'; '.join(reasons)}")
            return writer
        raise InputError(f"cannot write the video {self.target.with_suffix(CODECS[0][1])}: {'; '.join(reasons)}")

    def _start(self, codec: str, size: tuple[int, int]) -> cv2.VideoWriter:
        """Start the file with ``codec``. Raises _RefusedError if OpenCV does not, OSError of the file system."""
        with ExitStack() as stack:
            draft = stack.enter_context(atomic_path(self.target))
            draft.touch()  # OpenCV does not report errors of the file system: this raises them
            try:
                writer = cv2.VideoWriter(opencv_path(draft), cv2.VideoWriter.fourcc(*codec), self.rate, size)
                opened = writer.isOpened()
            except cv2.error:
                opened = False
            if not opened:
                if can_encode(codec):
                    shown = f"{size[0]}x{size[1]} pixels at {self.rate:g} frames per second"
                    raise _RefusedError(f"OpenCV's {codec} encoder refuses {shown}")
                raise _RefusedError(f"this OpenCV has no {codec} encoder")
            self._draft, self._size = draft, size
            self._finish = stack.pop_all()
        return writer

    def _read_back(self) -> None:
        """Raise unless the draft holds all frames: OpenCV does not report that a write has failed."""
        capture = cv2.VideoCapture(opencv_path(self._draft))
        readable = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.grab() else 0
        capture.release()
        if readable >= self._frames:
            return
        if shutil.disk_usage(self.target.parent).free < TOO_LITTLE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.target))
        raise InputError(
            f"cannot write the video {self.target}: only {max(int(readable), 0)} of {self._frames} frames are readable"
        )


class _RefusedError(Exception):
    """OpenCV does not start a video with a codec."""


@cache
def can_encode(codec: str) -> bool:
    """Tell whether OpenCV can write an ordinary small video with ``codec``, one of CODECS."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"probe{dict(CODECS)[codec]}"
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*codec), DEFAULT_RATE, (64, 64))
        opened = bool(writer.isOpened())
        writer.release()
        return opened
