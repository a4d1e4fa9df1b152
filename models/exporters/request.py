"""Requested properties of exports, from the options of export.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from models.exporters.images import calibration_files, choose_files
from models.exporters.job import GraphSettings
from models.exporters.options import CALIBRATION_IMAGES, COMPARISON_IMAGES, DEFAULT_DATA, ExportOptions, NmsSettings
from utils.errors import MissingFileError
from utils.log import LOGGER


@dataclass(frozen=True)
class ExportRequest:
    """Properties of the exports of one command.

    Attributes:
        imgsz: (height, width) in pixels. batch: images per call. dynamic: any size and batch. half: FP16.
        nms: settings of NMS inside the file, or None. raw_heads: the file gives the maps of the head.
        graph: settings of formats made from ONNX graphs.
        calibration_files: images for the calibration of INT8; if empty, the exports are not INT8.
        comparison_files: images on which the exports are compared; if empty, a generated image.
    """

    imgsz: tuple[int, int]
    batch: int = 1
    dynamic: bool = False
    half: bool = False
    nms: NmsSettings | None = None
    raw_heads: bool = False
    graph: GraphSettings = field(default_factory=GraphSettings)
    calibration_files: Sequence[str] = ()
    comparison_files: Sequence[str] = ()


def make_request(options: ExportOptions) -> ExportRequest:
    """Make the request of the options, and choose the images that it needs. Raises InputError if there are none."""
    calibration: list[str] = []
    if options.int8:
        calibration = calibration_files(options.data, options.calibration_images or CALIBRATION_IMAGES)
    return ExportRequest(
        imgsz=(options.imgsz[0], options.imgsz[1]),
        batch=options.batch_size,
        dynamic=options.dynamic,
        half=options.half,
        nms=options.nms_settings(),
        raw_heads=options.raw_heads,
        graph=GraphSettings(options.opset, options.simplify, options.workspace, options.verbose),
        calibration_files=calibration,
        comparison_files=comparison_files(options),
    )


def comparison_files(options: ExportOptions) -> list[str]:
    """Validation images to compare on; none if --data was not given and its default does not exist.

    One image is enough to compare numbers. Several are needed to compare detections: those are all that --nms outputs,
    and all by which INT8 can be judged.
    """
    try:
        return choose_files(options.data, "val", COMPARISON_IMAGES if options.nms or options.int8 else 1)
    except MissingFileError:
        if options.data != DEFAULT_DATA:
            raise
        LOGGER.info("No images to compare on: a generated picture is used; --data names a data set with real ones")
        return []
