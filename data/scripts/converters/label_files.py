"""Lines and files of labels in YOLO format, from annotations in other formats."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import atomic_path


def box_line(class_index: int, corners: Sequence[float], width: float, height: float) -> str:
    """Return ``class x_center y_center width height`` in fractions of the image, '' if the box lies outside of it.

    Args:
        class_index: index of the class.
        corners: left, top, right, bottom in pixels from the upper left corner of the image; clipped to the image.
        width: width of the image in pixels.
        height: height of the image in pixels.
    """
    left = min(max(corners[0], 0), width) / width
    top = min(max(corners[1], 0), height) / height
    right = min(max(corners[2], 0), width) / width
    bottom = min(max(corners[3], 0), height) / height
    if right <= left or bottom <= top:
        return ""
    return f"{class_index} {(left + right) / 2:.6f} {(top + bottom) / 2:.6f} {right - left:.6f} {bottom - top:.6f}"


def polygon_line(class_index: int, polygon: np.ndarray, width: float, height: float) -> str:
    """Return ``class x1 y1 x2 y2 ...`` in fractions of the image from points (N, 2) in pixels, clipped to the image."""
    points = (polygon / (width, height)).clip(0, 1)
    return " ".join([str(class_index), *(f"{value:.6f}" for value in points.flatten())])


def write_labels(path: Path, lines: Iterable[str]) -> None:
    """Write a label file atomically, without empty and repeated lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, sync=False) as draft:
        draft.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines) if line), encoding="ascii")


def join_rings(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Join polygons, each (N, 2), into one closed line (M, 2) that goes there and back at their nearest corners."""
    joined = rings[0]  # (J, 2)
    for ring in rings[1:]:
        distances = ((joined[:, None] - ring[None]) ** 2).sum(2)  # (J, N), squared
        leave, arrive = np.unravel_index(distances.argmin(), distances.shape)
        detour = np.concatenate((ring[arrive:], ring[: arrive + 1]))  # (N + 1, 2), from the corner around to itself
        joined = np.concatenate((joined[: leave + 1], detour, joined[leave:]))
    return joined


def read_coco(file: Path) -> dict[str, Any]:
    """Read a COCO annotation file (JSON). Raises InputError if it is not one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as annotations: {error}") from error
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise InputError(f"{file} is not a COCO annotation file: it has no key {missing[0]!r}")
    return content


def coco_labels(
    content: Mapping[str, Any],
    label_path: Callable[[Mapping[str, Any]], Path],
    polygons: bool = False,
    keep_crowds: bool = False,
) -> None:
    """Write a label file for each image with COCO annotations.

    The index of a class is the position of its id among the sorted ids of the categories.

    Args:
        content: images (id, width, height), annotations (image_id, category_id, bbox as left, top, width, height in
            pixels, and possibly segmentation and iscrowd) and categories (id).
        label_path: function from an image's record to its label file.
        polygons: write outlines instead of boxes; an object without outline gets the four corners of its box.
        keep_crowds: also write boxes around groups (iscrowd 1).
    """
    images = {image["id"]: image for image in content["images"]}
    ids = sorted(category["id"] for category in content["categories"])
    grouped: dict[Any, list[Any]] = defaultdict(list)
    for annotation in content["annotations"]:
        grouped[annotation["image_id"]].append(annotation)
    index_of = {category: index for index, category in enumerate(ids)}
    left_out = 0
    for image_id, image_annotations in tqdm(grouped.items(), desc="Writing labels", unit="images", disable=None):
        lines = []
        for annotation in image_annotations:
            if annotation.get("iscrowd") and not keep_crowds:
                continue
            line = ""
            if image_id in images and annotation["category_id"] in index_of:
                line = _coco_line(annotation, index_of[annotation["category_id"]], images[image_id], polygons)
            left_out += not line
            lines.append(line)
        if image_id in images:
            write_labels(label_path(images[image_id]), lines)
    if left_out:
        LOGGER.warning(f"{left_out} annotations without area, known class or image are left out")


def _coco_line(annotation: Mapping[str, Any], index: int, image: Mapping[str, Any], polygons: bool) -> str:
    left, top, width, height = annotation["bbox"]
    corners = left, top, left + width, top + height
    box = box_line(index, corners, image["width"], image["height"])
    if not polygons or not box:
        return box
    outline = annotation.get("segmentation")  # a list of rings, or run lengths
    rings = []
    if isinstance(outline, list):
        rings = [np.reshape(ring, (-1, 2)) for ring in outline if len(ring) >= 6]
    if not rings:
        rings = [np.array([corners[:2], (corners[2], corners[1]), corners[2:], (corners[0], corners[3])])]
    return polygon_line(index, join_rings(rings), image["width"], image["height"])
