"""Predictions and labels in COCO's formats (https://cocodataset.org/#format-results, #format-data), and their score."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.commands.packages import require
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import atomic_path

UNUSED_CATEGORIES = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # of the 90 ids: no annotation has them
COCO_CATEGORIES = tuple(number for number in range(1, 91) if number not in UNUSED_CATEGORIES)  # class index -> id
COCO_LIST = "coco/val2017.txt"
COCO_ANNOTATIONS = "annotations/instances_val2017.json"  # below the folder of the data set
GROUND_TRUTH = "ground_truth.json"


@dataclass(frozen=True)
class Tool:
    """A package that scores boxes as COCO does: its modules of annotations and of evaluations, and their arguments."""

    package: str
    annotations: str
    evaluations: str
    evaluation: str
    printing: Mapping[str, Any]


TOOLS = (
    Tool("pycocotools", "pycocotools.coco", "pycocotools.cocoeval", "COCOeval", {}),
    Tool("faster-coco-eval", "faster_coco_eval", "faster_coco_eval", "COCOeval_faster", {"print_function": print}),
)


def is_coco(data: Mapping[str, Any]) -> bool:
    """Tell whether a data set is COCO, whose category ids have gaps: its val split is the list coco/val2017.txt."""
    split = data.get("val")
    return isinstance(split, (str, Path)) and Path(split).as_posix().endswith(COCO_LIST)


def image_id(path: Path) -> int | str:
    """Id of an image: its stem, as a number if possible (000042.jpg -> 42)."""
    return int(path.stem) if path.stem.isnumeric() else path.stem


class CocoPredictions:
    """Collects predictions image by image, for ``write``.

    Attributes:
        rows: the predictions.
        image_ids: of the images, one after the other.
        numbers: of each row, the number of its image, from 0.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        """Categories are COCO's ids if ``data`` is COCO, else the class indices."""
        self._categories = COCO_CATEGORIES if is_coco(data) else None
        self.rows: list[dict[str, Any]] = []
        self.image_ids: list[int | str] = []
        self.numbers: list[int] = []

    def add(self, path: Path, detections: np.ndarray) -> None:
        """Add the detections (N, 6) of one image: x1, y1, x2, y2 in its native pixels, confidence, class."""
        self.numbers += [len(self.image_ids)] * len(detections)
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


class CocoTruth:
    """Collects the labels of a data set image by image, with the ids that ``CocoPredictions`` gives.

    Attributes:
        images, annotations: as in COCO's file.
        numbers: of each annotation, the number of its image, from 0.
    """

    def __init__(self, data: Mapping[str, Any], names: Mapping[int, str]) -> None:
        """Categories are COCO's ids if ``data`` is COCO, else the class indices."""
        ids = COCO_CATEGORIES if is_coco(data) else range(len(names))
        self._categories = dict(zip(names, ids, strict=False))
        self.categories = [{"id": self._categories[index], "name": name} for index, name in names.items()]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.numbers: list[int] = []

    def add(self, path: Path, labels: np.ndarray, size: tuple[int, int]) -> None:
        """Add the labels (M, 5) of one image of ``size`` (H, W): class, x1, y1, x2, y2 in its native pixels."""
        identity = image_id(path)
        self.numbers += [len(self.images)] * len(labels)
        self.images.append(
            {"id": identity, "file_name": path.name, "height": int(size[0]), "width": int(size[1])}
        )  # fmt: skip
        for class_index, x1, y1, x2, y2 in labels.tolist():
            width, height = x2 - x1, y2 - y1
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,  # pycocotools takes 0 for none
                    "image_id": identity,
                    "category_id": self._categories[int(class_index)],
                    "bbox": [round(value, 3) for value in (x1, y1, width, height)],
                    "area": round(width * height, 3),
                    "iscrowd": 0,
                }
            )

    def content(self) -> dict[str, Any]:
        """The content of COCO's file of annotations."""
        return {
            "info": {}, "images": self.images, "annotations": self.annotations, "categories": self.categories,
        }  # fmt: skip

    def write(self, file: Path) -> None:
        """Write ``file``; names of images that occur twice are warned of, as the file cannot tell them apart."""
        identities = [image["id"] for image in self.images]
        if len(set(identities)) < len(identities):
            LOGGER.warning(
                f"WARNING: {len(identities) - len(set(identities))} images have the name of another one, and in "
                f"{file.name} and the predictions the name is the id: other tools will mix them up"
            )
        with atomic_path(file) as draft:
            draft.write_text(json.dumps(self.content()), encoding="utf-8")

    def score(self, predictions: CocoPredictions) -> tuple[float, float] | None:
        """Score the predictions of the same images, whatever their names are; returns what ``score_boxes`` does."""
        truth = self.content() | {
            "images": [image | {"id": number} for number, image in enumerate(self.images)],
            "annotations": _numbered(self.annotations, self.numbers),
        }
        return score_boxes(truth, _numbered(predictions.rows, predictions.numbers), range(len(self.images)))


def _numbered(rows: Sequence[dict[str, Any]], numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Copies of ``rows`` in which the ids of images are ``numbers``."""
    return [row | {"image_id": number} for row, number in zip(rows, numbers, strict=True)]


def score_by_annotations(predictions: CocoPredictions, annotations: Path) -> tuple[float, float] | None:
    """Score by COCO's own file of the true boxes; returns what ``score_boxes`` does."""
    try:
        truth = json.loads(annotations.read_text(encoding="utf-8"))
        known = {image["id"] for image in truth["images"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOGGER.warning(f"not scored as COCO does: {annotations} cannot be read ({error!r})")
        return None
    return score_boxes(truth, predictions.rows, [number for number in predictions.image_ids if number in known])


def score_boxes(
    truth: Mapping[str, Any], rows: Sequence[dict[str, Any]], image_ids: Sequence[int | str]
) -> tuple[float, float] | None:
    """Compute mAP50-95 and mAP50 as COCO does, and log COCO's table, with the AP of small, medium and large boxes.

    Args:
        truth: the content of a file of annotations.
        rows: predictions, in COCO's result format.
        image_ids: the validated images; other images of ``truth`` do not count.

    Returns:
        mAP50-95 and mAP50; or None, after a line in the log, if no tool is installed, or boxes and images do not fit.
    """
    for tool in TOOLS:
        with contextlib.suppress(InputError):
            annotations = require(tool.annotations, "COCO's table").COCO
            evaluations = getattr(require(tool.evaluations, "COCO's table"), tool.evaluation)
            break
    else:
        LOGGER.warning("no table of COCO: its tool is not installed (pip install pycocotools, or faster-coco-eval)")
        return None
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            index = annotations(**tool.printing)
            index.dataset = copy.deepcopy(dict(truth))
            index.createIndex()
            evaluation = evaluations(index, index.loadRes(copy.deepcopy(list(rows))), "bbox", **tool.printing)
            evaluation.params.imgIds = list(image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    except (AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
        LOGGER.warning(f"not scored by {tool.package}: predictions and annotations do not match ({error!r})")
        return None
    table = [line for line in printed.getvalue().splitlines() if line.startswith(" Average")]
    LOGGER.info("\n".join([f"{tool.package}:", *table]))
    return float(evaluation.stats[0]), float(evaluation.stats[1])
