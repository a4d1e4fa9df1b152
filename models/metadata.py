"""The metadata of an exported file: plain JSON inside it, read and checked, never evaluated."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.configuration import MOST_ANCHORS
from utils.commands.options import LARGEST_IMAGE, MOST
from utils.dataset.classes import MOST_CLASSES
from utils.errors import InputError, one_line, short_repr

FILE_NAME = "metadata.json"  # in formats that are folders
LONGEST_TEXT = 1 << 21  # characters
KEY = "yolov5_prune"  # in formats whose metadata are one mapping of texts


@dataclass
class Metadata:
    """The facts that are needed to run an exported detector.

    Attributes:
        names: class names in order. stride: image sides must be multiples of it, in pixels.
        imgsz: (height, width) of the images in pixels; with ``dynamic`` only the size that it was made with.
        batch: images per call; with ``dynamic`` any number. dynamic: the file takes any batch and size.
        half: its numbers are FP16. int8: its convolutions are INT8.
        nms: the thresholds of the NMS inside, or None: then the output is (B, N, 5 + nc).
        anchors: (levels, anchors, 2) width and height in pixels of a file with raw heads, whose outputs are a map
            (B, anchors * (5 + nc), rows, columns) per level, before the sigmoid; None: it decodes them itself.
        strides: pixels per cell of each of these levels, or None.
        task: always 'detect'. weights: the checkpoint's file name. made_by: program and library versions.
    """

    names: list[str]
    stride: int
    imgsz: list[int]
    batch: int = 1
    dynamic: bool = False
    half: bool = False
    int8: bool = False
    nms: dict[str, Any] | None = None
    anchors: list[list[list[float]]] | None = None
    strides: list[float] | None = None
    task: str = "detect"
    weights: str = ""
    made_by: str = field(default="")

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels that every image must have, or None."""
        return None if self.dynamic else (self.imgsz[0], self.imgsz[1])

    @property
    def fixed_batch(self) -> int | None:
        """Images that each call must have, or None."""
        return None if self.dynamic else self.batch

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(dataclasses.asdict(self))

    def to_texts(self) -> dict[str, str]:
        """One JSON text for each entry."""
        return {name: json.dumps(value) for name, value in dataclasses.asdict(self).items()}


def parse_metadata(text: str | bytes | None, source: str | Path) -> Metadata:
    """Metadata from a JSON object. Raises InputError if there is none, or if it is not that of a detector."""
    if not text:
        raise _missing(source)
    content, reason = _read(text, (json.loads,))
    if reason:
        raise InputError(f"{source}: its metadata are not JSON ({reason}): export it again with export.py")
    return _checked(content, source)


def parse_texts(texts: Mapping[str, str], source: str | Path) -> Metadata:
    """Metadata from one text for each entry; v6.2's, whose names are a Python list, are accepted, too."""
    if "names" not in texts or "stride" not in texts:
        raise _missing(source)
    content = {}
    known = {entry.name for entry in dataclasses.fields(Metadata)}
    for name in known & texts.keys():
        content[name], reason = _read(texts[name], (json.loads, ast.literal_eval))  # literals only, nothing is run
        if reason:
            raise InputError(f"{source}: its metadata entry {name!r} cannot be read ({reason}): export it again")
    return _checked(content, source)


def _read(text: str | bytes, readers: Sequence[Callable[[Any], Any]]) -> tuple[Any, str]:
    """Return the result of the first of ``readers`` that can read a text, and ''; else None and the reason."""
    if len(text) > LONGEST_TEXT:
        return None, f"more than {LONGEST_TEXT} characters"
    reason = ""
    for read in readers:
        try:
            return read(text), ""
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:  # the last two: deep nesting
            reason = reason or one_line(error)
    return None, reason


def _missing(source: str | Path) -> InputError:
    return InputError(
        f"{source} has no metadata (class names, stride, image size): it was not written by export.py; export the "
        "checkpoint again"
    )


def _checked(content: Any, source: str | Path) -> Metadata:
    """Check a mapping of plain values and make Metadata of it."""
    if not isinstance(content, Mapping) or not {"names", "stride"} <= content.keys():
        raise _missing(source)
    values = {entry.name: content[entry.name] for entry in dataclasses.fields(Metadata) if entry.name in content}
    names = values["names"]
    if isinstance(names, Mapping):
        by_index = {str(key): name for key, name in names.items()}
        order = [str(index) for index in range(len(names))]
        names = [by_index[key] for key in order] if by_index.keys() == set(order) else None
    plain = isinstance(names, list) and all(isinstance(name, (str, int, float)) for name in names)
    values["names"] = [str(name) for name in names] if plain and len(names) <= MOST_CLASSES else None
    shape = content.get("shape")
    size = values.setdefault("imgsz", shape[-2:] if isinstance(shape, list) else None)
    fits = {
        "names": bool(values["names"]),
        "stride": _is_number(values["stride"], 1, LARGEST_IMAGE),
        "imgsz": isinstance(size, list) and len(size) == 2 and all(_is_count(side) for side in size),
        "batch": _is_count(values.get("batch", 1)),
        "nms": values.get("nms") is None or _fits_nms(values["nms"]),
        "anchors": values.get("anchors") is None or _fits_anchors(values["anchors"]),
        "strides": _fits_strides(values.get("strides"), values.get("anchors")),
        "task": values.get("task", "detect") == "detect",
    }
    fits |= {name: isinstance(values.get(name, False), bool) for name in ("dynamic", "half", "int8")}
    fits |= {name: isinstance(values.get(name, ""), str) for name in ("weights", "made_by")}
    wrong = next((name for name, good in fits.items() if not good), None)
    if wrong:
        raise InputError(f"{source}: its metadata entry {wrong!r} is {short_repr(content.get(wrong))}: export it again")
    values["stride"] = int(values["stride"])
    return Metadata(**values)


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value, 1, MOST)


def _fits_anchors(value: Any) -> bool:
    """Tell whether this is a list of equally long lists of pairs of sides in pixels."""
    levels = value if isinstance(value, list) and all(isinstance(level, list) for level in value) else []
    lengths = {len(level) for level in levels}
    if len(levels) > MOST_ANCHORS or len(lengths) != 1 or not 1 <= max(lengths) <= MOST_ANCHORS:
        return False
    return all(
        isinstance(pair, list) and len(pair) == 2 and all(_is_number(side, 0, LARGEST_IMAGE) for side in pair)
        for level in levels
        for pair in level
    )


def _fits_strides(value: Any, anchors: Any) -> bool:
    """Tell whether there is a stride for each level of ``anchors``, and none without anchors."""
    if value is None or anchors is None:
        return value is None and anchors is None
    levels = isinstance(value, list) and isinstance(anchors, list) and len(value) == len(anchors)
    return levels and all(_is_number(stride, 1, LARGEST_IMAGE) for stride in value)


def _fits_nms(value: Any) -> bool:
    """Tell whether these are the settings of ``models.exporters.graph_nms``."""
    return (
        isinstance(value, Mapping)
        and value.keys() == {"conf_thres", "iou_thres", "agnostic", "topk_per_class", "topk_all"}
        and all(_is_number(value[name], 0, 1) for name in ("conf_thres", "iou_thres"))
        and all(_is_count(value[name]) for name in ("topk_per_class", "topk_all"))
        and isinstance(value["agnostic"], bool)
    )
