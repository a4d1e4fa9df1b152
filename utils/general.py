"""YOLOv5 v6.2's names for other people's code, each re-exported from the module where it lives.

Nothing in this project imports this file; new code imports from the modules below.
"""

from utils.boxes import box_iou, clip_coords, scale_coords, xywh2xyxy, xywhn2xyxy, xyxy2xywh, xyxy2xywhn
from utils.checkpoint import intersect_dicts, strip_optimizer
from utils.checks import check_dataset, check_file, check_img_size, check_suffix, check_yaml
from utils.dataset_download import fetch_all as download
from utils.files import ROOT, increment_path
from utils.labels import class_weights as labels_to_class_weights
from utils.log import LOGGER, colorstr
from utils.log import setup_logging as set_logging
from utils.nms import non_max_suppression
from utils.optim import one_cycle
from utils.segments import resample_segments, segment2box, segments2boxes, xyn2xy

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
    "strip_optimizer",
    "xyn2xy",
    "xywh2xyxy",
    "xywhn2xyxy",
    "xyxy2xywh",
    "xyxy2xywhn",
]
