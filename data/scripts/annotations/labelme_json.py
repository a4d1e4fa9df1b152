"""LabelMe's annotation files: one JSON file with shapes for each image."""

from __future__ import annotations

import math
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

AREAS = ("polygon", "rectangle", "circle")


def is_labelme(content: Any) -> bool:
    """Tell whether the content of a JSON file has the shapes of a LabelMe annotation."""
    return isinstance(content, Mapping) and isinstance(content.get("shapes"), list)


def read_labelme(file: Path, content: Any, tally: Tally) -> Annotations:
    """Read the annotation of one image: polygons, rectangles and circles; points and lines have no area.

    Raises:
        InputError: the file is not a LabelMe annotation.
    """
    if not is_labelme(content):
        raise InputError(f"{file} is not a LabelMe annotation: expected a list under 'shapes'")
    objects = []
    for number, shape in enumerate(content["shapes"]):
        label = f"{file}: shape {number}"
        shape_type = shape.get("shape_type") or "polygon" if isinstance(shape, Mapping) else None
        if shape_type not in AREAS or not isinstance(shape.get("label"), str):
            tally.add("shapes without a label or an area are left out", f"{label}, {short_repr(shape_type)}")
            continue
        try:
            points = np.array([finite_numbers(point, 2) for point in shape["points"]]).reshape(-1, 2)
        except (KeyError, TypeError, ValueError) as error:
            tally.add("shapes without usable points are left out", f"{label}: {error}")
            continue
        if len(points) < (3 if shape_type == "polygon" else 2):
            tally.add("shapes with too few points are left out", f"{label}: a {shape_type} of {len(points)}")
            continue
        objects.append(_object(shape["label"], shape_type, points))
    reference = str(content.get("imagePath") or file.stem)
    size = whole_size(content.get("imageWidth"), content.get("imageHeight"))
    names = sorted({marked.name for marked in objects})
    return Annotations([AnnotatedImage(reference, size, tuple(objects), file)], names)


def _object(name: str, shape_type: str, points: np.ndarray) -> MarkedObject:
    """The box of a shape, and its outline where the shape is a polygon; ``points`` (N, 2) x, y in pixels."""
    if shape_type == "circle":  # its centre and a point on it
        (x, y), (on_x, on_y) = points[:2]
        radius = math.hypot(on_x - x, on_y - y)
        return MarkedObject(name, (float(x - radius), float(y - radius), float(x + radius), float(y + radius)))
    left, top = points.min(0)
    right, bottom = points.max(0)
    corners = (float(left), float(top), float(right), float(bottom))
    return MarkedObject(name, corners, (points,) if shape_type == "polygon" else ())
