"""Requested properties of exports, from the options of export.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.exporters.images import calibration_files, choose_files
from models.exporters.job import GraphSettings
from models.exporters.options import CALIBRATION_IMAGES, COMPARISON_IMAGES, ExportOptions, NmsSettings
from models.loading import load_checkpoint
from utils.dataset.description import check_dataset
from utils.errors import InputError
from utils.log import LOGGER
from utils.training_record import training_record, with_record


@dataclass(frozen=True)
class ExportRequest:
    """Properties of the exports of one command.

    Attributes:
        imgsz: (height, width) in pixels. batch: images per call. dynamic: any size and batch. half: FP16.
        nms: settings of NMS inside the file, or None. raw_heads: the file gives the maps of the head.
        graph: settings of formats made from ONNX graphs.
        calibration_files: images for the calibration of INT8; if empty, the exports are not INT8.
        comparison_files: images on which the exports are compared; if empty, a generated image.
        data: the data set of these images; '' if there is none.
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
    data: str = ""


def with_training(options: ExportOptions, weights: str | Path) -> ExportOptions:
    """The options with image size and data set of the training of ``weights``, where they are not given.

    An export does not need a data set: if that of the training is not on this machine, ``data`` stays empty. Raises
    InputError if --int8 needs one.
    """
    if options.data and options.imgsz:
        return options
    record = training_record(load_checkpoint(weights), weights)
    try:
        complete = with_record(options, record)
        if not options.int8:  # calibration_files checks the data set, and says what it is needed for
            check_dataset(complete.data, splits=("val",), autodownload=False)
    except InputError as error:
        if options.int8 or options.data:
            raise
        LOGGER.info(f"No images to compare on ({error}): a generated picture is used")
        return with_record(options, record, fields=("imgsz",))
    return complete


def make_request(options: ExportOptions) -> ExportRequest:
    """Make the request of complete options, and choose its images. Raises InputError if there are none."""
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
        data=options.data,
    )


def comparison_files(options: ExportOptions) -> list[str]:
    """Validation images to compare on; none without a data set.

    One image is enough to compare numbers. Several are needed to compare detections: those are all that --nms outputs,
    and all by which INT8 can be judged.
    """
    count = COMPARISON_IMAGES if options.nms or options.int8 else 1
    return choose_files(options.data, "val", count) if options.data else []
