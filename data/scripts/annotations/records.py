"""Annotated images, independent of the format they were read from, and a tally of what cannot be used."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError, one_line, short_repr
from utils.log import LOGGER

MOST_JSON_BYTES = 4 << 30  # COCO's largest file has 0.5 GB


@dataclass(frozen=True)
class MarkedObject:
    """One object of an image.

    Attributes:
        name: of its class.
        corners: left, top, right, bottom in pixels from the upper left corner of the image.
        rings: its outline as polygons (N, 2) of x, y in pixels; empty where only the box is known.
    """

    name: str
    corners: tuple[float, float, float, float]
    rings: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class AnnotatedImage:
    """An image of an annotation file.

    Attributes:
        reference: the image as the annotation names it, usually a file name.
        size: width, height in pixels as the annotation gives them; (0, 0) where it does not.
        objects: what is marked in it; may be empty.
        source: the annotation file.
    """

    reference: str
    size: tuple[int, int]
    objects: tuple[MarkedObject, ...]
    source: Path


@dataclass
class Annotations:
    """The content of one or more annotation files: images, and the class names in the order of the file."""

    images: list[AnnotatedImage] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class Tally:
    """Counts of what is left out or changed, by reason, each with its first example."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.counts: dict[str, int] = {}
        self.examples: dict[str, str] = {}

    def add(self, reason: str, example: object, count: int = 1) -> None:
        """Count something under ``reason``."""
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.examples.setdefault(reason, str(example))

    def report(self) -> None:
        """Log one line for each reason."""
        for reason, count in self.counts.items():
            LOGGER.warning(f"WARNING: {count} {reason}, the first: {self.examples[reason]}")


def read_json(file: Path) -> Any:
    """The content of a JSON file. Raises InputError that names the file if it is not readable or not JSON."""
    try:
        if file.stat().st_size > MOST_JSON_BYTES:
            raise InputError(f"{file} has more than {MOST_JSON_BYTES >> 30} GB: split it into several files")
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: save it in that encoding") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({one_line(error)}): it may be incomplete, export it again") from error


def finite_numbers(values: Any, count: int) -> tuple[float, ...]:
    """``count`` finite numbers. Raises ValueError that quotes what there is instead."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise ValueError(f"expected {count} numbers, got {short_repr(values)}")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError(f"expected {count} finite numbers, got {short_repr(values)}")
    return tuple(float(value) for value in values)


def whole_size(width: Any, height: Any) -> tuple[int, int]:
    """Width and height in pixels, (0, 0) where they are missing, empty or not above 0."""
    try:
        size = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return 0, 0
    return size if min(size) > 0 else (0, 0)
