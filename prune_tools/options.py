"""Options of prune.py, and those that all commands that prune have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prune_tools.planning.options import PlanOptions
from utils.commands.options import LARGEST_IMAGE, CheckedOptions, as_list, option, settle
from utils.errors import InputError
from utils.storage.files import ROOT, WORK

DEFAULT_CFG = str(ROOT / "models/yolov5n_mask.yaml")


@dataclass(frozen=True)
class PruningOptions(CheckedOptions):
    """Options of every command that prunes: what it opens, how it repairs, how it measures, where it writes."""

    group: ClassVar[str] = "model, data, repairs and measurements"

    data: str = option("", "data set YAML; default: that of the training of --weights")
    cfg: str = option(
        DEFAULT_CFG, "model YAML to check the checkpoint against; the default and '' accept any", identity=False
    )
    weights: list[str] = option(
        [""], "checkpoint of the sparse run; default: the newest below runs/train", nargs="+", handed_on=False
    )
    fold: bool = option(True, "fold the constants that removed channels emitted into their readers")
    reconstruct: int = option(
        192, "training images on which the layers are re-fitted to the unpruned model; 0 = off", at_least=0
    )
    recalibrate: int = option(0, "training images on which batch-norm statistics are re-estimated; 0 = off", at_least=0)
    batch_size: int = option(64, "images per batch", at_least=1)
    imgsz: int = option(
        None, "image size in pixels, longer side; default: that of the training of --weights, else 640", "--img",
        "--img-size", type=int, at_least=1, at_most=LARGEST_IMAGE,
    )  # fmt: skip
    conf_thres: float = option(0.001, "least confidence; mAP needs 0.001", at_least=0, at_most=1)
    iou_thres: float = option(0.6, "NMS threshold", at_least=0, at_most=1)
    max_det: int = option(300, "most detections per image", at_least=1)
    single_cls: bool = option(False, "treat all classes as one; set automatically for a model trained with it")
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    workers: int = option(0, "most data loading processes", at_least=0, identity=False)
    project: str = option(str(WORK / "runs/val"), "folder of the runs", handed_on=False, identity=False)
    name: str = option("exp", "name of this run; exp, exp2, exp3, ... when taken", handed_on=False, identity=False)
    exist_ok: bool = option(False, "write into the run folder even if it exists", handed_on=False, identity=False)
    half: bool = option(False, "validate in FP16 (on a GPU)")
    dnn: bool = option(False, "OpenCV DNN for ONNX files: not possible here, stops with a message", identity=False)

    def __post_init__(self) -> None:
        """Refuse what no pruning can use, by name."""
        super().__post_init__()
        settle(self, weights=as_list(self.weights))
        if len(self.weights) > 1:
            raise InputError(
                f"--weights names {len(self.weights)} files, but one model is pruned at a time: give one checkpoint"
            )
        if self.dnn:
            raise InputError(
                "--dnn runs ONNX files through OpenCV, but pruning works on PyTorch checkpoints: leave it out"
            )


@dataclass(frozen=True)
class PruneOptions(PlanOptions, PruningOptions):
    """Options of prune.py."""

    noval: bool = option(
        False, "neither validate nor time: the report shows what was removed, but no accuracy", handed_on=False
    )
    sweep: str = option("", "run folder of sweep.py whose curve goes into report.html", handed_on=False)
    sensitivity: str = option("", "run folder of sensitivity.py whose figures go into report.html", handed_on=False)
