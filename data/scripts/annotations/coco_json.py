"""COCO's annotation files: one JSON file with images, annotations and categories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.scripts.annotations.records import (
    AnnotatedImage,
    Annotations,
    MarkedObject,
    Tally,
    finite_numbers,
    whole_size,
)
from utils.errors import InputError, short_repr

KEYS = ("images", "annotations", "categories")


def is_coco(content: Any) -> bool:
    """Tell whether the content of a JSON file has the keys of a COCO annotation file."""
    return isinstance(content, Mapping) and all(isinstance(content.get(key), list) for key in KEYS)


def read_coco(file: Path, content: Any, tally: Tally) -> Annotations:
    """Read COCO annotations; classes are in the order of their ids.

    Crowds are left out. A category without any object that is called like the super-category of the others, as
    Roboflow writes it, is not a class.

    Raises:
        InputError: an entry of images or categories is malformed or repeats an id.
    """
    if not is_coco(content):
        raise InputError(f"{file} is not a COCO annotation file: expected lists under {', '.join(KEYS)}")
    categories = _by_id(file, content, "categories", "name")
    images = _by_id(file, content, "images", "file_name")
    marked: dict[Any, list[MarkedObject]] = defaultdict(list)
    used: set[Any] = set()
    for annotation in content["annotations"]:
        if not isinstance(annotation, Mapping):
            tally.add("annotations are not mappings and left out", f"{file}: {short_repr(annotation)}")
            continue
        label = f"{file}: annotation {annotation.get('id')}"
        category, image = annotation.get("category_id"), annotation.get("image_id")
        if not _is_key(category) or category not in categories:
            tally.add(
                "annotations of an unknown category are left out", f"{label} with category_id {short_repr(category)}"
            )
        elif not _is_key(image) or image not in images:
            tally.add("annotations of an unknown image are left out", f"{label} with image_id {short_repr(image)}")
        elif annotation.get("iscrowd"):
            tally.add("crowds (iscrowd) are left out", label)
            used.add(category)
        else:
            used.add(category)
            marked_object = _object(annotation, str(categories[category]["name"]), label, tally)
            if marked_object is not None:
                marked[image].append(marked_object)
    classes = [key for key in categories if not _is_heading(key, categories, used)]
    classes.sort(key=lambda key: (isinstance(key, str), key))
    listed = []
    for key, image in images.items():
        size = whole_size(image.get("width"), image.get("height"))
        listed.append(AnnotatedImage(str(image["file_name"]), size, tuple(marked[key]), file))
    return Annotations(listed, list(dict.fromkeys(str(categories[key]["name"]) for key in classes)))


def _is_key(value: Any) -> bool:
    return isinstance(value, int | str)


def _by_id(file: Path, content: Mapping[str, Any], key: str, text: str) -> dict[Any, Mapping[str, Any]]:
    """The entries of a list by their ids; each must have the text ``text``."""
    entries: dict[Any, Mapping[str, Any]] = {}
    for number, entry in enumerate(content[key]):
        if not isinstance(entry, Mapping) or not _is_key(entry.get("id")) or not isinstance(entry.get(text), str):
            raise InputError(f"{file}: {key}[{number}] must have an id and a {text}, got {short_repr(entry)}")
        if entry["id"] in entries:
            raise InputError(f"{file}: {key}[{number}] repeats the id {short_repr(entry['id'])}")
        entries[entry["id"]] = entry
    return entries


def _is_heading(key: Any, categories: Mapping[Any, Mapping[str, Any]], used: set[Any]) -> bool:
    """Tell whether a category only names the group that all others belong to."""
    others = [category for other, category in categories.items() if other != key]
    name = categories[key]["name"]
    return key not in used and bool(others) and all(other.get("supercategory") == name for other in others)


def _object(annotation: Mapping[str, Any], name: str, label: str, tally: Tally) -> MarkedObject | None:
    """One annotation as an object; None, and counted, if it has neither a box nor an outline."""
    rings = _rings(annotation.get("segmentation"))
    try:
        left, top, width, height = finite_numbers(annotation.get("bbox"), 4)
    except ValueError as error:
        if not rings:
            tally.add("annotations without a box are left out", f"{label}: bbox: {error}")
            return None
        points = np.concatenate(rings)
        left, top = points.min(0)
        width, height = np.ptp(points, axis=0)
    return MarkedObject(name, (float(left), float(top), float(left + width), float(top + height)), rings)


def _rings(segmentation: Any) -> tuple[np.ndarray, ...]:
    """The polygons of an outline; run-length masks have none."""
    rings = []
    for ring in segmentation if isinstance(segmentation, list) else ():
        if isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0:
            try:
                rings.append(np.reshape(finite_numbers(ring, len(ring)), (-1, 2)))
            except ValueError:
                return ()
    return tuple(rings)
