"""The options of val.py. This module loads neither torch nor NumPy, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass

from utils.commands.options import LARGEST_IMAGE, as_list, check_numbers, option, settle
from utils.dataset import SPLITS
from utils.errors import InputError
from utils.storage.files import WORK

AP_THRESHOLDS = 0.001, 0.6  # minimum confidence and NMS IoU threshold of published mAP figures
SPEED_THRESHOLDS = 0.25, 0.45  # the same as in detect.py
IMAGE_SIZE = 640  # pixels


def _defaults_of_tasks(threshold: int) -> str:
    return f"default: {AP_THRESHOLDS[threshold]}; with --task speed {SPEED_THRESHOLDS[threshold]}"


@dataclass(frozen=True)
class ValOptions:
    """Options of val.py."""

    data: str = option("", "data set YAML; default: that of the training of --weights")
    allow_download_scripts: bool = option(
        False, "run the script that the data set YAML has for getting missing data", handed_on=False
    )
    weights: list[str] = option(
        [str(WORK / "yolov5s.pt")],
        "checkpoint or export; several checkpoints make an ensemble",
        nargs="+",
        handed_on=False,
    )
    batch_size: int = option(32, "images per batch", at_least=1)
    imgsz: int | None = option(
        None,
        f"image size in pixels, longer side; default: that of the training of --weights, else {IMAGE_SIZE}; an export "
        "has its own",
        "--img",
        "--img-size",
        type=int,
        at_least=1,
        at_most=LARGEST_IMAGE,
    )
    conf_thres: float = option(None, f"minimum confidence ({_defaults_of_tasks(0)})", type=float, at_least=0, at_most=1)
    iou_thres: float = option(None, f"NMS IoU threshold ({_defaults_of_tasks(1)})", type=float, at_least=0, at_most=1)
    max_det: int = option(300, "maximum number of detections per image", at_least=1)
    task: str = option(
        "val",
        "a split; speed: time alone; study: accuracy and time by image size",
        choices=[*SPLITS, "speed", "study"],
    )
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    workers: int = option(8, "maximum number of data loading processes", at_least=0)
    single_cls: bool = option(False, "treat all classes as one")
    augment: bool = option(False, "augmented inference: three sizes, flipped", handed_on=False)
    verbose: bool = option(False, "always print a row per class")
    save_txt: bool = option(False, "write the predictions as label files")
    save_hybrid: bool = option(False, "write labels and predictions, joined by NMS, as label files")
    save_conf: bool = option(False, "with --save-txt or --save-hybrid: append the confidence to each line")
    save_json: bool = option(
        False, "write predictions and labels in COCO's formats, and score them as COCO does; always for coco.yaml"
    )
    project: str = option(str(WORK / "runs/val"), "folder of the runs", handed_on=False)
    name: str = option("exp", "name of this run; exp, exp2, exp3, ... when taken", handed_on=False)
    exist_ok: bool = option(False, "write into the run folder even if it exists", handed_on=False)
    half: bool = option(False, "compute in FP16 (on a GPU)")
    dnn: bool = option(False, "run an ONNX file with OpenCV")

    def __post_init__(self) -> None:
        """Fill in what follows from other options. Raises InputError for values that no run can use, by flag."""
        check_numbers(self)
        if self.task == "study" and (self.imgsz or self.save_txt or self.save_hybrid or self.save_json):
            raise InputError(
                "--task study has its own image sizes and files: leave out --imgsz, "
                "--save-txt, --save-hybrid and --save-json"
            )
        confidence, iou = SPEED_THRESHOLDS if self.task == "speed" else AP_THRESHOLDS
        settle(
            self,
            weights=as_list(self.weights),
            conf_thres=confidence if self.conf_thres is None else self.conf_thres,
            iou_thres=iou if self.iou_thres is None else self.iou_thres,
            save_json=self.save_json or (self.task in SPLITS and self.data.endswith("coco.yaml")),
            save_txt=self.save_txt or self.save_hybrid,
        )
        if self.save_conf and not self.save_txt:
            raise InputError("--save-conf has no effect without label files: add --save-txt")

    @property
    def split(self) -> str:
        """Split of the data set to read."""
        return self.task if self.task in SPLITS else "val"
