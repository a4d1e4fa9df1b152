"""Videos that are written, and the frame rates of those that are read."""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError
from utils.log import LOGGER, log_once
from utils.storage.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

DEFAULT_RATE = 30.0  # frames per second, of a source that announces none
CODECS = (("mp4v", ".mp4"), ("MJPG", ".avi"))  # the first that works; OpenCV brings the second itself
MOST_TICKS = 65535  # per second, in a header of MPEG-4 (ISO/IEC 14496-2, vop_time_increment_resolution has 16 bits)
LEAST_RATE = 0.01
TOO_LITTLE_BYTES = 1 << 20  # of free space: a video that cannot be finished there has run out of it


def usable_rate(announced: float, most: float = math.inf) -> float:
    """Frames per second as a source announces them, or DEFAULT_RATE for what is no rate: 0, negative, NaN, > ``most``.

    ``inf`` is none, either.
    """
    return announced if math.isfinite(announced) and 0 < announced <= most else DEFAULT_RATE


def mpeg4_rate(rate: float) -> float:
    """The frame rate nearest to ``rate`` that MPEG-4 takes when OpenCV writes it.

    OpenCV makes a fraction of it whose denominator is a power of ten, and MPEG-4 takes numerators up to 65535: 119.983
    becomes 119.98.
    """
    rate = min(max(usable_rate(rate), LEAST_RATE), MOST_TICKS)
    scale = next(scale for scale in (1000, 100, 10, 1) if round(rate * scale) <= MOST_TICKS)
    return round(rate * scale) / scale


def opencv_path(path: str | Path) -> str:
    """``path`` as text for OpenCV, which crashes on names that are no valid text. Raises InputError for these."""
    text = str(path)
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(f"OpenCV opens no video whose path is not valid UTF-8: {path}: rename it")
    return text


class VideoFile:
    """A video that appears when it is finished. Frames of another size than the first are letterboxed into that."""

    def __init__(self, target: Path, rate: float) -> None:
        """``target`` ends in .mp4, and becomes .avi where OpenCV cannot write that; ``rate`` in frames per second."""
        self.target, self.rate = target, mpeg4_rate(rate)
        self._writer: Any = None
        self._draft = target
        self._finish = ExitStack()  # renames the draft, or removes it after an error
        self._size = (0, 0)
        self._frames = 0

    def write(self, frame: np.ndarray) -> None:
        """Add one frame (H, W, 3) BGR. Raises InputError, or OSError, with the reason if no video can be made."""
        size = frame.shape[1], frame.shape[0]
        if self._writer is None:
            self._open(size)
        elif size != self._size:
            from utils.augmentations import letterbox

            log_once(f"{self.target}: frames of {size[0]}x{size[1]} are fitted into {self._size[0]}x{self._size[1]}")
            frame = letterbox(frame, self._size[::-1], auto=False)[0]
        self._writer.write(frame)
        self._frames += 1

    def close(self) -> None:
        """Finish the file. Raises InputError, or OSError where the disk is full, if it was not written whole."""
        if self._writer is None:
            return
        with self._finish:
            self._writer.release()
            self._writer = None
            self._read_back()

    def _open(self, size: tuple[int, int]) -> None:
        reasons: list[str] = []
        for codec, suffix in CODECS:
            self.target = self.target.with_suffix(suffix)
            reason = self._try(codec, size)
            if not reason:
                if reasons:
                    LOGGER.warning(f"{self.target} is written by {codec}: {'; '.join(reasons)}")
                return
            reasons.append(reason)
        raise InputError(f"cannot write the video {self.target.with_suffix(CODECS[0][1])}: {'; '.join(reasons)}")

    def _try(self, codec: str, size: tuple[int, int]) -> str:
        """Start the file with ``codec``; returns why OpenCV does not, or ''. Raises OSError of the file system."""
        import cv2

        try:
            with ExitStack() as stack:
                draft = stack.enter_context(atomic_path(self.target))
                draft.touch()  # OpenCV tells no error of the file system: this raises it
                writer = cv2.VideoWriter(opencv_path(draft), cv2.VideoWriter.fourcc(*codec), self.rate, size)
                if not writer.isOpened():
                    raise _RefusedError
                self._writer, self._draft, self._size = writer, draft, size
                self._finish = stack.pop_all()
        except (_RefusedError, cv2.error):
            if can_encode(codec):
                return f"OpenCV's {codec} encoder refuses {size[0]}x{size[1]} pixels at {self.rate:g} frames per second"
            return f"this OpenCV has no {codec} encoder"
        return ""

    def _read_back(self) -> None:
        """Raise unless the draft holds all frames: OpenCV does not tell when a write fails."""
        import cv2

        capture = cv2.VideoCapture(opencv_path(self._draft))
        found = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.grab() else 0
        capture.release()
        if found >= self._frames:
            return
        if shutil.disk_usage(self.target.parent).free < TOO_LITTLE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.target))
        raise InputError(
            f"cannot write the video {self.target}: of {self._frames} frames {max(int(found), 0)} can be read back"
        )


class _RefusedError(Exception):
    """OpenCV does not start a video."""


@cache
def can_encode(codec: str) -> bool:
    """Tell whether OpenCV writes a small ordinary video with ``codec``, of CODECS."""
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"probe{dict(CODECS)[codec]}"
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*codec), DEFAULT_RATE, (64, 64))
        opened = bool(writer.isOpened())
        writer.release()
        return opened
