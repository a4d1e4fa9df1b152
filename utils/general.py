"""YOLOv5 v6.2's names for other people's code, each re-exported from the module where it lives.

Nothing in this project imports this file; new code imports from the modules below.
"""

from importlib import import_module
from typing import Any

from utils.checkpoint import intersect_dicts
from utils.checks import check_dataset, check_file, check_img_size, check_suffix, check_yaml
from utils.dataset.download import fetch_all as download
from utils.dataset.labels import class_weights as labels_to_class_weights
from utils.geometry.boxes import box_iou, clip_coords, scale_coords, xywh2xyxy, xywhn2xyxy, xyxy2xywh, xyxy2xywhn
from utils.geometry.nms import non_max_suppression
from utils.geometry.segments import resample_segments, segment2box, segments2boxes, xyn2xy
from utils.log import LOGGER, colorstr
from utils.log import setup_logging as set_logging
from utils.storage.files import ROOT, increment_path
from utils.training.optim import one_cycle

__all__ = [
    "LOGGER",
    "ROOT",
    "box_iou",
    "check_dataset",
    "check_file",
    "check_img_size",
    "check_suffix",
    "check_yaml",
    "clip_coords",
    "colorstr",
    "download",
    "increment_path",
    "intersect_dicts",
    "labels_to_class_weights",
    "non_max_suppression",
    "one_cycle",
    "resample_segments",
    "scale_coords",
    "segment2box",
    "segments2boxes",
    "set_logging",
    "strip_optimizer",  # noqa: F822
    "xyn2xy",
    "xywh2xyxy",
    "xywhn2xyxy",
    "xyxy2xywh",
    "xyxy2xywhn",
]

# Names that live above this folder; they are looked up when somebody asks, so that nothing here depends on them
_ELSEWHERE = {"strip_optimizer": "models.loading"}


def __getattr__(name: str) -> Any:
    """Find names that live elsewhere."""
    if name in _ELSEWHERE:
        return getattr(import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
