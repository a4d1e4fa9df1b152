"""Reading and checking image files. Files are never written: damaged ones are repaired in memory or refused.

All pictures are opened by ``read_image``, so a file is usable everywhere or nowhere. ``inspect_image``, which measures
files for a scan, accepts only what ``read_image`` accepts.
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
OTHER_FORMATS = (  # often found in files that are named like pictures
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
    (b"<", "HTML or XML"),
)
SMALLEST_SIDE_PIXELS = 10
LARGEST_PIXELS = 1 << 30  # OpenCV's limit
LARGEST_SIDE_PIXELS = 1 << 20  # OpenCV's limit
LARGEST_PIXELS_VARIABLE = "OPENCV_IO_MAX_IMAGE_PIXELS"
HEAD_BYTES = 1 << 17  # enough for the head of nearly every JPEG, and for most progressive ones as a whole
READ_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
CV2_LOGGING: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 and 4 keep their log level in different places
_log_lock = threading.Lock()
_log_state = {"silent": 0, "level": 0}


# -- reading -------------------------------------------------------------------------------------------------------


def read_image(file: str | Path, reduction: int = 1) -> np.ndarray:
    """Read an image as BGR (H, W, 3) uint8, rotated as its EXIF data say, without transparency.

    NumPy reads the bytes, so the path may contain any characters. Of a truncated JPEG, what can be decoded is returned,
    and the rest is grey.

    Args:
        file: path of the image.
        reduction: 1, 2, 4 or 8: decode at that fraction of the size, which is faster for JPEG.

    Raises:
        InputError: the file cannot be read or decoded, or has too many pixels; the message names it.
    """
    try:
        return _decode(_content(file), reduction)
    except InputError as error:
        raise InputError(f"{file} {error}") from error


def damage_of(file: str | Path) -> str:
    """Return why a file's content cannot be decoded; '' if it can, or if the file cannot be accessed now."""
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
    """Read the bytes of a file. Raises InputError; here and below, the message continues the name of the file."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # reading a named pipe would wait for a writer
            raise InputError("it is not a regular file")
        content = np.fromfile(file, dtype=np.uint8)
    except (OSError, ValueError) as error:  # ValueError: the path contains NUL
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not content.size:
        raise InputError("is empty (0 bytes)")
    return content


def _decode(content: np.ndarray, reduction: int = 1) -> np.ndarray:
    """Decode a picture, even a JPEG whose end is missing. Raises InputError."""
    image, reason = _ask_decoder(content, reduction)
    if image is None and not reason and content[:2].tobytes() == JPEG_START:
        image, reason = _ask_decoder(np.append(content, np.frombuffer(JPEG_END, np.uint8)), reduction)
    if image is None:
        raise InputError(reason or f"cannot be decoded as an image: {_diagnose(content)}")
    return image


def _ask_decoder(content: np.ndarray, reduction: int) -> tuple[np.ndarray | None, str]:
    """Let OpenCV decode: returns the image or None, and the reason for None unless the content is damaged."""
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
    """Keep OpenCV from logging several lines about each damaged file; several threads may use this at a time."""
    with _log_lock:
        if not _log_state["silent"]:
            _log_state["level"] = CV2_LOGGING.getLogLevel()
            CV2_LOGGING.setLogLevel(0)
        _log_state["silent"] += 1
    try:
        yield
    finally:
        with _log_lock:
            _log_state["silent"] -= 1
            if not _log_state["silent"]:
                CV2_LOGGING.setLogLevel(_log_state["level"])


def _diagnose(content: np.ndarray) -> str:
    """Describe what is wrong with bytes that OpenCV cannot decode."""
    if _format(content):
        return "the file is damaged, or a variant of its format that OpenCV does not support"
    return f"its content is {_other_format(content)}"


def _format(content: np.ndarray) -> str:
    """Return which format of data sets the content has; '' for another."""
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
    setting = os.environ.get(LARGEST_PIXELS_VARIABLE, "")
    return int(setting) if setting.isdecimal() else LARGEST_PIXELS


# -- measuring -----------------------------------------------------------------------------------------------------


def inspect_image(file: str | Path) -> tuple[tuple[int, int], str]:
    """Check and measure an image file: common JPEG and PNG files by their heads, all others by decoding them.

    Returns:
        (width, height) in pixels as ``read_image`` returns them, after the EXIF rotation; and a remark if the file is
        damaged but usable (else '').

    Raises:
        InputError: the file cannot be read, has a side under 10 pixels, is too large, or has an unsupported format.
            The message does not name the file.
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
    """Size of a flawless JPEG, of which only the beginning and the end are read; None if that is not enough."""
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
        return None  # reported when the whole file is read


def _measure(content: np.ndarray) -> tuple[tuple[int, int], str]:
    """Size and remark as of ``inspect_image``, from the whole content."""
    file_format = _format(content)
    if not file_format:
        raise InputError(f"its content is {_other_format(content)}, expected one of {' '.join(IMAGE_SUFFIXES)}")
    if file_format == "png" and (size := png_size(content.tobytes())) is not None:
        return size, ""
    ended = content[-2:].tobytes() == JPEG_END
    size = jpeg_size(content.tobytes()) if file_format == "jpeg" else None
    if size is not None and ended:
        return size, ""
    image = _decode(content, 8 if size is not None else 1)
    remark = ""
    if file_format == "jpeg" and not ended and _is_cut(content.tobytes()):
        remark = "the JPEG is cut off: what can be decoded is used, the rest is grey"
    elif file_format == "jpeg" and not ended:
        remark = "the JPEG has bytes after its end: they are ignored"
    return size or (image.shape[1], image.shape[0]), remark


def _is_cut(content: bytes) -> bool:
    """Tell whether the last scan of a JPEG has no end; the end marker cannot occur within a scan."""
    return content.rfind(JPEG_END) < content.rfind(JPEG_SCAN)
