"""Predictions in COCO's result format (https://cocodataset.org/#format-results), and their score by COCO's tool."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.log import LOGGER
from utils.storage.files import atomic_path

UNUSED_CATEGORIES = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of the 90 ids: no annotation has them
COCO_CATEGORIES = tuple(number for number in range(1, 91) if number not in UNUSED_CATEGORIES)  # class index -> id
COCO_LIST = "coco/val2017.txt"
COCO_ANNOTATIONS = "annotations/instances_val2017.json"  # below the folder of the data set


def is_coco(data: Mapping[str, Any]) -> bool:
    """Tell whether a data set is COCO, whose category ids have gaps: its val split is the list coco/val2017.txt."""
    split = data.get("val")
    return isinstance(split, (str, Path)) and Path(split).as_posix().endswith(COCO_LIST)


def image_id(path: Path) -> int | str:
    """Id of an image: its stem, as a number if possible (000042.jpg -> 42)."""
    return int(path.stem) if path.stem.isnumeric() else path.stem


class CocoPredictions:
    """Collects predictions image by image, for ``write``."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        """Categories are COCO's ids if ``data`` is COCO, else the class indices."""
        self._categories = COCO_CATEGORIES if is_coco(data) else None
        self.rows: list[dict[str, Any]] = []
        self.image_ids: list[int | str] = []

    def add(self, path: Path, detections: np.ndarray) -> None:
        """Add the detections (N, 6) of one image: x1, y1, x2, y2 in its native pixels, confidence, class."""
        self.image_ids.append(image_id(path))
        for x1, y1, x2, y2, confidence, class_index in detections.tolist():
            category = int(class_index)
            self.rows.append(
                {
                    "image_id": self.image_ids[-1],
                    "category_id": self._categories[category] if self._categories else category,
                    "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "score": round(confidence, 5),
                }
            )

    def write(self, file: Path) -> bool:
        """Write all predictions to ``file``; returns False, and writes nothing, if there are none."""
        if not self.rows:
            LOGGER.warning(f"there are no predictions: {file.name} is not written")
            return False
        with atomic_path(file) as draft:
            draft.write_text(json.dumps(self.rows), encoding="utf-8")
        return True


def score_by_pycocotools(
    predictions: Path, annotations: Path, image_ids: list[int | str]
) -> tuple[float, float] | None:
    """Compute mAP50-95 and mAP50 of a file of predictions with pycocotools, and log its table.

    Args:
        predictions: written by ``CocoPredictions``.
        annotations: COCO's file of the true boxes.
        image_ids: the validated images; other images of the annotations do not count.

    Returns:
        mAP50-95 and mAP50; or None, after a line in the log, if pycocotools is not installed, or the annotations are
        missing or do not fit.
    """
    if not annotations.is_file():
        LOGGER.info(f"not scored by pycocotools: there is no {annotations}")
        return None
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        LOGGER.warning("not scored by pycocotools: it is not installed (pip install pycocotools)")
        return None
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            truth = COCO(str(annotations))
            known = set(truth.getImgIds())
            evaluation = COCOeval(truth, truth.loadRes(str(predictions)), "bbox")
            evaluation.params.imgIds = [number for number in image_ids if number in known]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    except (AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
        LOGGER.warning(f"not scored by pycocotools: {predictions} and {annotations} do not match ({error!r})")
        return None
    table = [line for line in printed.getvalue().splitlines() if line.startswith(" Average")]
    LOGGER.info("\n".join(["pycocotools:", *table]))
    return float(evaluation.stats[0]), float(evaluation.stats[1])
