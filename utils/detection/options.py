"""The options of detect.py. This module loads neither torch nor OpenCV, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass

from utils.commands.options import LARGEST_IMAGE, as_list, check_numbers, option, settle
from utils.errors import InputError, short_repr
from utils.storage.files import ROOT, WORK

DEFAULT_SOURCE = str(ROOT / "data/images")  # as in v6.2


@dataclass(frozen=True)
class DetectOptions:
    """Options of detect.py."""

    weights: list[str] = option(
        [str(WORK / "yolov5s.pt")],
        "checkpoint or export; several checkpoints make an ensemble",
        nargs="+",
        handed_on=False,
    )
    source: str = option(DEFAULT_SOURCE, "image, folder, glob, video, list file, camera number, address")
    data: str = option(
        str(ROOT / "data/coco128.yaml"), "data set YAML; read only for names that a checkpoint lacks", handed_on=False
    )
    imgsz: list[int] = option(
        None,
        "image size in pixels: longer side, or height and width; default: that of the training of --weights, else 640; "
        "an export has its own",
        "--img",
        "--img-size",
        nargs="+",
        type=int,
        at_least=1,
        at_most=LARGEST_IMAGE,
    )
    batch_size: int = option(
        1,
        "images per batch, of one shape; above 1, reading and writing run in background threads",
        at_least=1,
        handed_on=False,
    )
    conf_thres: float = option(0.25, "minimum confidence", at_least=0, at_most=1)
    iou_thres: float = option(0.45, "IoU threshold of NMS", at_least=0, at_most=1)
    max_det: int = option(1000, "maximum number of detections per image", at_least=1)
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    view_img: bool = option(False, "show the results in a window, where there is a display; streams always do")
    save_txt: bool = option(False, "write the detections as label files")
    save_conf: bool = option(False, "with --save-txt: append the confidence to each line")
    save_csv: bool = option(False, "write all detections into one table, predictions.csv")
    save_crop: bool = option(False, "save each detected box as a separate picture")
    nosave: bool = option(False, "write no annotated images or videos")
    classes: list[int] | None = option(None, "keep only these class indices", nargs="+", type=int, at_least=0)
    agnostic_nms: bool = option(False, "let boxes of different classes suppress each other")
    augment: bool = option(False, "augmented inference: three sizes, flipped", handed_on=False)
    visualize: bool = option(False, "save pictures of each layer's output")
    update: bool = option(False, "strip the optimizer from the weights files afterwards")
    project: str = option(str(WORK / "runs/detect"), "folder of the runs", handed_on=False)
    name: str = option("exp", "name of this run; exp, exp2, exp3, ... when taken", handed_on=False)
    exist_ok: bool = option(False, "write into the run folder even if it exists", handed_on=False)
    line_thickness: int = option(3, "thickness of the boxes in pixels", at_least=1, at_most=LARGEST_IMAGE)
    hide_labels: bool = option(False, "draw no labels")
    hide_conf: bool = option(False, "draw no confidences")
    half: bool = option(False, "compute in FP16 (on a GPU)")
    dnn: bool = option(False, "run an ONNX file with OpenCV")
    vid_stride: int = option(1, "take every n-th frame of videos and streams", at_least=1)

    def __post_init__(self) -> None:
        """Make lists of single values. Raises InputError for values that no run can use, by flag."""
        check_numbers(self)
        sides = [self.imgsz] if isinstance(self.imgsz, int) else list(self.imgsz or [])
        settle(self, weights=as_list(self.weights), imgsz=sides)
        if len(sides) > 2:
            raise InputError(f"--imgsz takes one or two numbers (height width), got {short_repr(sides)}")
        if self.save_conf and not self.save_txt:
            raise InputError("--save-conf has no effect without label files: add --save-txt")
        if self.batch_size > 1 and (self.view_img or self.visualize):
            raise InputError("--view-img and --visualize need one image at a time: leave out --batch-size")
        if self.visualize and (self.augment or len(self.weights) > 1):
            raise InputError(
                "--visualize shows the layers of one pass of one model: leave out --augment, and give one weights file"
            )
