"""Reading and checking image files. Files are only ever read: what is damaged is repaired in memory or refused."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from utils.errors import InputError

IMAGE_SUFFIXES = ("bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp")
SMALLEST_SIDE_PIXELS = 10
ORIENTATION_TAG = 274  # EXIF
TURNED = (5, 6, 7, 8)  # orientations that exchange width and height
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


def read_image(file: str | Path, reduction: int = 1) -> np.ndarray:
    """Read an image as BGR (H, W, 3) uint8, turned as its EXIF data say, without transparency.

    The bytes are read by numpy, so any path works, whatever its letters. A JPEG that is cut off gives what can be
    decoded of it, the rest is grey.

    Args:
        file: path of the image.
        reduction: 1, 2, 4 or 8: decode at that fraction of the size, which is faster for JPEG.

    Raises:
        InputError: the file cannot be read or decoded; it is named.
    """
    try:
        content = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    if not content.size:
        raise InputError(f"{file} is empty (0 bytes)")
    image = _decode(content, reduction)
    if image is None and content[:2].tobytes() == JPEG_START:
        image = _decode(np.append(content, np.frombuffer(JPEG_END, np.uint8)), reduction)
    if image is None:
        raise InputError(f"{file} cannot be decoded as an image: the file is damaged or of another format")
    return image


def _decode(content: np.ndarray, reduction: int) -> np.ndarray | None:
    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }
    try:
        return cv2.imdecode(content, flags[reduction])
    except cv2.error:
        return None


def inspect_image(file: str | Path) -> tuple[tuple[int, int], str]:
    """Check an image file without decoding it, and measure it.

    Returns:
        (width, height) in pixels as ``read_image`` gives them, that is after the EXIF rotation, and a remark if the
        file is damaged but usable (else '').

    Raises:
        InputError: unreadable, smaller than 10 pixels on a side, or of a format that is not supported. OSError: ditto.
    """
    from PIL import Image

    try:
        with Image.open(file) as picture:
            kind, (width, height) = (picture.format or "unknown").lower(), picture.size
            decodes_for_exif = kind == "png" and "exif" not in picture.info  # where PIL looks beyond the pixels
            orientation = 1 if decodes_for_exif else picture.getexif().get(ORIENTATION_TAG, 1)
            picture.verify()  # last: it closes the file
    except Exception as error:  # PIL's readers raise nearly any type on damaged files
        raise InputError(f"not a readable image ({error})") from error
    if kind not in IMAGE_SUFFIXES:
        raise InputError(f"its format is {kind}, expected one of {' '.join(IMAGE_SUFFIXES)}")
    remark = "" if kind != "jpeg" else _jpeg_remark(file)
    if orientation in TURNED and kind in ("jpeg", "mpo"):
        width, height = height, width
    elif orientation in TURNED:  # whether PIL and OpenCV turn the others depends on their versions: ask the decoder
        height, width = read_image(file).shape[:2]
    if min(width, height) < SMALLEST_SIDE_PIXELS:
        raise InputError(f"its size is {width}x{height}, expected at least {SMALLEST_SIDE_PIXELS} pixels on each side")
    return (width, height), remark


def _jpeg_remark(file: str | Path) -> str:
    """Say what is wrong if a JPEG does not end with its end marker; raise InputError if nothing can be decoded."""
    with open(file, "rb") as stream:
        stream.seek(-2, os.SEEK_END)
        if stream.read() == JPEG_END:
            return ""
    read_image(file)
    if _decode(np.fromfile(file, np.uint8), 1) is None:
        return "the JPEG is cut off: what can be decoded is used, the rest is grey"
    return "the JPEG has bytes after its end: they are ignored"
