"""Label files of a data set: finding, reading, writing and checking them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from utils.dataset.image_files import find_images as find_images
from utils.dataset.images import inspect_image
from utils.errors import InputError, short_repr
from utils.geometry.boxes import as_array, xyxy2xywh
from utils.geometry.segments import segments2boxes
from utils.storage.files import atomic_path

Segments = list[np.ndarray | None]
BOX_FIELDS = 5  # class, centre x, centre y, width, height
POLYGON_FIELDS = 7  # at least: class and three points
IGNORING = "WARNING: ignoring "  # start of the message about an image that is left out


# -- finding -------------------------------------------------------------------------------------------------------


def img2label_paths(img_paths: Iterable[str]) -> list[str]:
    """Label file of each image: its last folder ``images`` becomes ``labels``, its suffix ``.txt``."""
    marker = f"{os.sep}images{os.sep}"
    replacement = f"{os.sep}labels{os.sep}"
    return [replacement.join(image.rsplit(marker, 1)).rsplit(".", 1)[0] + ".txt" for image in img_paths]


# -- reading -------------------------------------------------------------------------------------------------------


def parse_label_file(file: str | Path) -> tuple[np.ndarray, Segments]:
    """Read a label file: on each line ``class x y w h`` or a polygon ``class x1 y1 x2 y2 x3 y3 ...``, as fractions.

    Returns:
        Rows (N, 5) float32: class, centre x, centre y, width, height; and for each row its polygon (P, 2) float32, or
        None if the line is a box (an empty list if no line is a polygon).

    Raises:
        InputError: the file is not UTF-8 text, or a line cannot be used; the message gives its number.
    """
    text = _label_text(file)
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, words) for number, words in lines if words]
    segments: Segments = []
    if all(len(words) == BOX_FIELDS for _, words in lines):
        rows = _box_rows(lines)
    else:
        parsed = [_parse_line(number, words) for number, words in lines]
        rows = np.array([row for row, _ in parsed], np.float32)
        segments = [polygon for _, polygon in parsed]
    numbers = [number for number, _ in lines]
    _check_rows(rows, numbers)
    return rows, segments


def _label_text(file: str | Path) -> str:
    try:
        return Path(file).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"line {line} is not UTF-8 text: save the file in that encoding") from error


def _box_rows(lines: list[tuple[int, list[str]]]) -> np.ndarray:
    try:
        return np.array([words for _, words in lines], np.float32).reshape(-1, BOX_FIELDS)
    except ValueError:  # some word is not a number: find it line by line
        return np.array([_parse_line(number, words)[0] for number, words in lines], np.float32)


def _parse_line(number: int, words: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Parse the words of a line -> (class, x, y, w, h), and its polygon (P, 2) or None."""
    try:
        values = np.array(words, np.float32)
    except ValueError as error:
        wrong = short_repr(next((word for word in words if not _is_number(word)), words[0]))
        raise InputError(f"line {number}: expected numbers with spaces between them, got {wrong}") from error
    if len(words) == BOX_FIELDS:
        return values, None
    if len(words) < POLYGON_FIELDS or len(words) % 2 == 0:
        raise InputError(
            f"line {number} has {len(words)} fields, expected {BOX_FIELDS} (class x y w h), "
            "or a class and three or more points"
        )
    polygon = values[1:].reshape(-1, 2)
    return np.concatenate((values[:1], segments2boxes([polygon])[0].astype(np.float32))), polygon


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_rows(rows: np.ndarray, numbers: list[int]) -> None:
    """Raise InputError for the first row with an impossible class or coordinate; ``numbers`` are the rows' lines."""
    boxes = rows[:, 1:]  # (N, 4)
    inside = ((boxes >= 0) & (boxes <= 1)).all(1)  # (N,), false for NaN, too
    whole = (rows[:, 0] >= 0) & (rows[:, 0] == np.floor(rows[:, 0])) & np.isfinite(rows[:, 0])
    if (inside & whole).all():
        return
    first = int(np.argmin(inside & whole))
    if not whole[first]:
        raise InputError(f"line {numbers[first]}: class {rows[first, 0]:g}, expected a whole number of at least 0")
    shown = " ".join(f"{value:g}" for value in boxes[first])
    raise InputError(f"line {numbers[first]}: box {shown}, expected coordinates from 0 to 1 (fractions of the image)")


def remove_duplicates(rows: np.ndarray, segments: Segments) -> tuple[np.ndarray, Segments, int]:
    """Drop repeated rows (N, 5) and their polygons; if there are any, the others are sorted.

    Returns:
        The rows, their polygons, and the number of rows dropped.
    """
    _, kept = np.unique(rows, axis=0, return_index=True)
    dropped = len(rows) - len(kept)
    if not dropped:
        return rows, segments, 0
    return rows[kept], [segments[index] for index in kept] if segments else [], dropped


# -- writing ---------------------------------------------------------------------------------------------------------


def save_labels(
    detections: torch.Tensor | np.ndarray, native_size: tuple[int, int], file: Path, with_confidence: bool
) -> None:
    """Write detections as lines ``class x y w h``, normalised, with the confidence at the end if asked for.

    Args:
        detections: (N, 6) x1, y1, x2, y2 in native pixels, confidence, class.
        native_size: (height, width) of the image in pixels.
        file: to write, atomically.
        with_confidence: append the confidence.
    """
    height, width = native_size
    rows = as_array(detections)
    boxes = xyxy2xywh(rows[:, :4]) / np.array([width, height, width, height], dtype=rows.dtype)  # (N, 4)
    lines = []
    for box, (confidence, class_index) in zip(boxes.tolist(), rows[:, 4:6].tolist(), strict=True):
        values = [class_index, *box]
        if with_confidence:
            values.append(confidence)
        lines.append(" ".join(f"{value:g}" for value in values) + "\n")
    with atomic_path(file, sync=False) as draft:
        draft.write_text("".join(lines), encoding="utf-8")


# -- checking ------------------------------------------------------------------------------------------------------


@dataclass
class ImageRecord:
    """Result of scanning one image and its label file."""

    usable: bool = True
    size: tuple[int, int] = (0, 0)  # width, height
    labels: np.ndarray = field(default_factory=lambda: np.zeros((0, BOX_FIELDS), np.float32))
    segments: Segments = field(default_factory=list)  # empty, or one for each row of labels
    found: int = 0
    missing: int = 0
    empty: int = 0
    corrupt: int = 0
    message: str = ""


def verify_image_label(image: str, label_file: str) -> ImageRecord:
    """Check one image and its label file; never raises: the record's message says what is wrong."""
    record = ImageRecord()
    try:
        record.size, remark = inspect_image(image)
        if remark:
            record.message = f"WARNING: {image}: {remark}"
        if not os.path.lexists(label_file):
            record.missing = 1
            return record
        record.found = 1
        if not os.path.isfile(label_file):
            raise InputError("is a folder, a broken link or a special file, expected a text file")
        rows, segments = parse_label_file(label_file)
    except (InputError, OSError) as error:
        culprit = f"{label_file}: " if record.found else ""
        record.message = f"{IGNORING}{image}: {culprit}{error}"
        record.usable = False
        record.corrupt = 1
        return record
    record.empty = int(not len(rows))
    record.labels, record.segments, dropped = remove_duplicates(rows, segments)
    if dropped:
        note = f"WARNING: {image}: {dropped} duplicate labels removed"
        record.message = f"{record.message}; {note}" if record.message else note
    return record


def check_class_indices(
    labels: Sequence[np.ndarray], label_files: Sequence[str], nc: int, names: Mapping[int, str] | Sequence[str]
) -> None:
    """Raise InputError if a label's class is not one of the ``nc`` classes, for the first such file and line.

    Args:
        labels: for each image (n, 5), class first.
        label_files: of the same images.
        nc: number of classes. names: for the message.
    """
    for rows, file in zip(labels, label_files, strict=True):
        if len(rows) and rows[:, 0].max() >= nc:
            number, index = _first_class_from(file, nc)
            known = ", ".join(names.values() if isinstance(names, Mapping) else names)
            raise InputError(
                f"{file}, line {number}: class {index}, expected 0 to {nc - 1} ({known}): "
                "correct the label, or nc and names in the data set's YAML file"
            )


def _first_class_from(file: str, lowest: int) -> tuple[int, int]:
    """Line number and class of the first line of a valid label file whose class is ``lowest`` or above."""
    for number, line in enumerate(Path(file).read_text(encoding="utf-8-sig").splitlines(), 1):
        words = line.split()
        if words and float(words[0]) >= lowest:
            return number, int(float(words[0]))
    raise InputError(f"{file} changed while it was being read: start again")


# -- weights -------------------------------------------------------------------------------------------------------


def class_counts(labels: Sequence[np.ndarray], nc: int) -> np.ndarray:
    """Number of labels of each class over all images -> (nc,) int64."""
    classes = np.concatenate([rows[:, 0] for rows in labels] or [np.zeros(0)]).astype(np.int64)
    return np.bincount(classes, minlength=nc)


def class_weights(labels: Sequence[np.ndarray], nc: int) -> torch.Tensor:
    """Weights (nc,) float32 that sum to 1, inverse to the number of labels of each class, but of at least 1."""
    inverse = 1 / np.maximum(class_counts(labels, nc), 1)
    return torch.from_numpy(inverse / math.fsum(inverse)).float()
