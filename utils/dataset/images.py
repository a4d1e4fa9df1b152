"""Reading and checking image files. Files are only ever read: what is damaged is repaired in memory or refused.

``read_image`` is the one place where pictures are opened: what it takes is usable everywhere, and ``inspect_image``,
which measures them for a scan, promises nothing that it does not keep.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.dataset.image_headers import JPEG_END, JPEG_SCAN, JPEG_START, PNG_START, jpeg_size, png_size
from utils.dataset.image_headers import ORIENTATION_TAG as ORIENTATION_TAG
from utils.errors import InputError

IMAGE_SUFFIXES = ("bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp")
FORMATS = (  # of data sets, by the bytes that files begin with
    (JPEG_START, "jpeg"),
    (PNG_START, "png"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
)
OTHER_FORMATS = (  # often found under the name of a picture
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
    (b"<", "HTML or XML"),
)
SMALLEST_SIDE_PIXELS = 10
LARGEST_PIXELS, LARGEST_SIDE_PIXELS = 1 << 30, 1 << 20  # of OpenCV, which is asked to decode
LARGEST_PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
HEAD_BYTES = 1 << 17  # in which the first scan of nearly every JPEG begins, and most progressive ones end
READ_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
CV2_LOGGING: Any = getattr(cv2.utils, "logging", cv2)  # where OpenCV 5 and 4 have the level of their log
_log_turn = threading.Lock()
_log_state = {"silent": 0, "level": 0}


# -- reading -------------------------------------------------------------------------------------------------------


def read_image(file: str | Path, reduction: int = 1) -> np.ndarray:
    """Read an image as BGR (H, W, 3) uint8, turned as its EXIF data say, without transparency.

    The bytes are read by numpy, so any path works, whatever its letters. A JPEG that is cut off gives what can be
    decoded of it, the rest is grey.

    Args:
        file: path of the image.
        reduction: 1, 2, 4 or 8: decode at that fraction of the size, which is faster for JPEG.

    Raises:
        InputError: the file cannot be read or decoded, or has too many pixels; it is named.
    """
    try:
        return _decode(_content(file), reduction)
    except InputError as error:
        raise InputError(f"{file} {error}") from error


def damage_of(file: str | Path) -> str:
    """Return why OpenCV does not decode what a file holds; '' if it does, or if the file cannot be got at now."""
    try:
        content = _content(file)
    except InputError as error:
        return "" if isinstance(error.__cause__, OSError) else str(error)
    try:
        _decode(content)
    except InputError as error:
        return str(error)
    return ""


def _content(file: str | Path) -> np.ndarray:
    """The bytes of a file. Raises InputError; as everywhere below, its message is to follow the name of the file."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # a named pipe would be waited for
            raise InputError("it is not a regular file")
        content = np.fromfile(file, dtype=np.uint8)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not content.size:
        raise InputError("is empty (0 bytes)")
    return content


def _decode(content: np.ndarray, reduction: int = 1) -> np.ndarray:
    """The picture, also of a JPEG whose end is missing. Raises InputError."""
    image, reason = _ask_decoder(content, reduction)
    if image is None and not reason and content[:2].tobytes() == JPEG_START:
        image, reason = _ask_decoder(np.append(content, np.frombuffer(JPEG_END, np.uint8)), reduction)
    if image is None:
        raise InputError(reason or f"cannot be decoded as an image: {_look(content)}")
    return image


def _ask_decoder(content: np.ndarray, reduction: int) -> tuple[np.ndarray | None, str]:
    """Return what OpenCV decodes, or None; and why it does not, where that is not damage."""
    try:
        with _silence():
            image = cv2.imdecode(content, READ_FLAGS[reduction])
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            return None, _too_large()
        if error.code == cv2.Error.StsNoMem:
            return None, "cannot be decoded: there is not enough memory"
        return None, ""
    if image is not None and (image.ndim != 3 or image.dtype != np.uint8):
        return None, ""
    return image, ""


@contextmanager
def _silence() -> Iterator[None]:
    """Keep OpenCV, which writes several lines about each damaged file, from logging; usable by several threads."""
    with _log_turn:
        if not _log_state["silent"]:
            _log_state["level"] = CV2_LOGGING.getLogLevel()
            CV2_LOGGING.setLogLevel(0)
        _log_state["silent"] += 1
    try:
        yield
    finally:
        with _log_turn:
            _log_state["silent"] -= 1
            if not _log_state["silent"]:
                CV2_LOGGING.setLogLevel(_log_state["level"])


def _look(content: np.ndarray) -> str:
    """Return what is wrong with bytes that OpenCV does not decode."""
    if _format(content):
        return "the file is damaged, or of a kind of its format that OpenCV does not know"
    return f"its content is {_other_format(content)}"


def _format(content: np.ndarray) -> str:
    """One of the formats of data sets, or ''."""
    start = content[:12].tobytes()
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "webp"
    return next((name for mark, name in FORMATS if start.startswith(mark)), "")


def _other_format(content: np.ndarray) -> str:
    start = content[:64].tobytes()
    if start[4:8] == b"ftyp":
        return start[8:12].decode("ascii", "replace").strip().upper()  # AVIF, HEIC, MP42 ...
    if not start.strip(b"\0"):
        return "zero bytes"
    return next((name for mark, name in OTHER_FORMATS if start.lstrip().startswith(mark)), "of no known format")


def _too_large(size: tuple[int, int] | None = None) -> str:
    shown = f"has {size[0]}x{size[1]} pixels" if size else "has too many pixels"
    return (
        f"{shown}, at most {_largest_pixels()} in all and {LARGEST_SIDE_PIXELS} on a side can be decoded: cut it into "
        f"tiles, or set {LARGEST_PIXELS_VARIABLE}"
    )


def _largest_pixels() -> int:
    wanted = os.environ.get(LARGEST_PIXELS_VARIABLE, "")
    return int(wanted) if wanted.isdecimal() else LARGEST_PIXELS


# -- measuring -----------------------------------------------------------------------------------------------------


def inspect_image(file: str | Path) -> tuple[tuple[int, int], str]:
    """Check an image file and measure it: common JPEG and PNG files by their heads, all others by decoding them.

    Returns:
        (width, height) in pixels as ``read_image`` gives them, that is after the EXIF rotation, and a remark if the
        file is damaged but usable (else '').

    Raises:
        InputError: it cannot be read, is smaller than 10 pixels on a side, too large, or of a format that is not
            supported. The message does not name the file.
    """
    size, remark = _jpeg_by_head(file), ""
    if size is None:
        size, remark = _measure(_content(file))
    width, height = size
    if min(width, height) < SMALLEST_SIDE_PIXELS:
        raise InputError(f"its size is {width}x{height}, expected at least {SMALLEST_SIDE_PIXELS} pixels on each side")
    if width * height > _largest_pixels() or max(width, height) > LARGEST_SIDE_PIXELS:
        raise InputError(_too_large(size))
    return size, remark


def _jpeg_by_head(file: str | Path) -> tuple[int, int] | None:
    """The size of a JPEG that is in order and ends as it should; only its two ends are read."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return None
        with open(file, "rb", buffering=0) as stream:
            head = stream.read(HEAD_BYTES)
            if not head.startswith(JPEG_START) or (size := jpeg_size(head)) is None:
                return None
            stream.seek(-len(JPEG_END), os.SEEK_END)
            return size if stream.read() == JPEG_END else None
    except (OSError, ValueError):
        return None  # said where it is read as a whole


def _measure(content: np.ndarray) -> tuple[tuple[int, int], str]:
    kind = _format(content)
    if not kind:
        raise InputError(f"its content is {_other_format(content)}, expected one of {' '.join(IMAGE_SUFFIXES)}")
    if kind == "png" and (size := png_size(content.tobytes())) is not None:
        return size, ""
    ended = content[-2:].tobytes() == JPEG_END
    size = jpeg_size(content.tobytes()) if kind == "jpeg" else None
    if size is not None and ended:
        return size, ""
    image = _decode(content, 8 if size is not None else 1)
    remark = ""
    if kind == "jpeg" and not ended and _is_cut(content.tobytes()):
        remark = "the JPEG is cut off: what can be decoded is used, the rest is grey"
    elif kind == "jpeg" and not ended:
        remark = "the JPEG has bytes after its end: they are ignored"
    return size or (image.shape[1], image.shape[0]), remark


def _is_cut(content: bytes) -> bool:
    """Tell whether nothing ends the last scan of a JPEG; within a scan the bytes of its end cannot occur."""
    return content.rfind(JPEG_END) < content.rfind(JPEG_SCAN)
