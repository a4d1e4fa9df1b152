"""The options of export.py. This module loads no torch, so that --help answers at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from models.formats import DEFAULT_OPSET, FORMATS, INT8_OPSET, ONE_IMAGE, OPSETS, Format, find_formats
from utils.commands.options import LARGEST_IMAGE, as_list, check_numbers, option, settle
from utils.errors import InputError, short_repr
from utils.storage.files import WORK

REFUSED = {  # flags of v6.2 that no format supports
    "inplace": "the exported head never writes in place, as no runtime would gain from it: leave it out",
    "keras": "Keras models are not offered: leave it out, or use --include tflite",
    "optimize": "PyTorch for phones has ended, and torch's builds lack its optimizer: use ncnn, tflite or coreml",
}
CALIBRATION_IMAGES = 128
COMPARISON_IMAGES = 32
PROPERTIES = ("half", "dynamic", "int8", "nms", "raw_heads")  # of the file: every format in --include must support them
NMS_FLAGS = ("agnostic_nms", "topk_per_class", "topk_all", "iou_thres", "conf_thres")


@dataclass(frozen=True)
class NmsSettings:
    """Non-maximum suppression inside an exported graph.

    Attributes:
        conf_thres, iou_thres: as in ``utils.geometry.nms``.
        agnostic: boxes of different classes suppress each other.
        topk_per_class: detections kept of each class of an image. topk_all: of these, detections kept in all.
    """

    conf_thres: float = 0.25
    iou_thres: float = 0.45
    agnostic: bool = False
    topk_per_class: int = 100
    topk_all: int = 100

    def to_dict(self) -> dict[str, Any]:
        """For the metadata."""
        return asdict(self)


@dataclass(frozen=True)
class ExportOptions:
    """Options of export.py."""

    data: str = option(
        "",
        "data set YAML: the exports are compared on one of its images, --int8 is calibrated on others; "
        "default: that of the training of --weights",
    )
    weights: list[str] = option(
        [str(WORK / "yolov5s.pt")], "checkpoint; several are exported one by one", nargs="+", handed_on=False
    )
    imgsz: list[int] = option(
        None,
        "image size in pixels: side of the square, or height and width; default: that of the training of --weights, "
        "else 640",
        "--img",
        "--img-size",
        nargs="+",
        type=int,
        at_least=1,
        at_most=LARGEST_IMAGE,
    )
    batch_size: int = option(1, "images per call; with --dynamic only a hint for TensorRT", at_least=1, handed_on=False)
    device: str = option("cpu", "cpu, or cuda device number such as 0", handed_on=False)
    half: bool = option(False, "FP16", handed_on=False)
    inplace: bool = option(False, "refused: no export writes in place")
    keras: bool = option(False, "refused: Keras models are not offered")
    optimize: bool = option(False, "refused: PyTorch for phones has ended")
    int8: bool = option(False, "quantize to INT8 with training images of --data; written as <name>_int8")
    calibration_images: int | None = option(
        None, f"with --int8: images to calibrate on (default: {CALIBRATION_IMAGES})", type=int, at_least=1
    )
    dynamic: bool = option(False, "take any batch and image size")
    simplify: bool = option(False, "simplify the ONNX graph, by onnxslim")
    opset: int | None = option(None, f"opset of the ONNX graph (default: {DEFAULT_OPSET})", type=int, at_least=1)
    verbose: bool = option(False, "TensorRT: log everything")
    workspace: float | None = option(
        None, "TensorRT: memory to build with, in GiB (default: 4)", type=float, at_least=0
    )
    nms: bool = option(False, "apply NMS inside the graph: output (batch, topk-all, 6) of x1 y1 x2 y2 score class")
    raw_heads: bool = option(
        False, "for NPUs: end at the last convolutions, one map per level before the sigmoid; written as <name>_raw"
    )
    agnostic_nms: bool = option(False, "with --nms: let boxes of different classes suppress each other")
    topk_per_class: int | None = option(
        None, "with --nms: maximum number of detections per class (default: 100)", type=int, at_least=1
    )
    topk_all: int | None = option(None, "with --nms: detections per image (default: 100)", type=int, at_least=1)
    iou_thres: float | None = option(
        None, "with --nms: IoU threshold of NMS (default: 0.45)", type=float, at_least=0, at_most=1, handed_on=False
    )
    conf_thres: float | None = option(
        None, "with --nms: minimum confidence (default: 0.25)", type=float, at_least=0, at_most=1, handed_on=False
    )
    include: list[str] = option(
        ["torchscript", "onnx"], "formats: " + " ".join(each.argument for each in FORMATS[1:]), nargs="+"
    )

    def __post_init__(self) -> None:
        """Make lists of single values. Raises InputError for values and flags that the formats cannot use."""
        check_numbers(self)
        sides = [self.imgsz] if isinstance(self.imgsz, int) else list(self.imgsz or [])
        if len(sides) > 2:
            raise InputError(f"--imgsz takes one or two numbers (height width), got {short_repr(sides)}")
        size = sides * 2 if len(sides) == 1 else sides
        settle(self, weights=as_list(self.weights), imgsz=size, include=as_list(self.include))
        if self.workspace is not None and self.workspace <= 0:
            raise InputError(f"--workspace must be above 0 GiB, got {self.workspace:g}")
        for name, reason in REFUSED.items():
            if getattr(self, name):
                raise InputError(f"--{name} is not possible: {reason}")
        self._check_flags(find_formats(self.include))

    def _check_flags(self, formats: list[Format]) -> None:
        """Raise InputError for a flag that one of the formats does not support, or that has no effect."""
        for name in PROPERTIES:
            unable = [each.argument for each in formats if name not in each.can]
            if getattr(self, name) and unable:
                able = " ".join(each.argument for each in FORMATS if name in each.can) or "no format yet"
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} is not possible with --include {unable[0]}: possible with {able}")
        for name in sorted(set().union(*(each.flags for each in FORMATS))):
            concerned = [each.argument for each in FORMATS if name in each.flags]
            if getattr(self, name) not in (None, False) and not any(name in each.flags for each in formats):
                raise InputError(f"--{name} concerns {' '.join(concerned)}, and none of them is in --include")
        given = [name for name in NMS_FLAGS if getattr(self, name) not in (None, False)]
        if given and not self.nms:
            raise InputError(f"--{given[0].replace('_', '-')} has no effect without NMS inside the graph: add --nms")
        if self.calibration_images is not None and not self.int8:
            raise InputError("--calibration-images has no effect without INT8: add --int8")
        if self.raw_heads and self.nms:
            raise InputError("--raw-heads and --nms contradict each other, as NMS needs boxes: give one of them")
        if self.int8 and self.half:
            raise InputError("--int8 and --half contradict each other: give one of them")
        quantizes_onnx = self.int8 and any(each.argument == "onnx" for each in formats)
        if quantizes_onnx and self.opset is not None and self.opset < INT8_OPSET:
            raise InputError(
                f"--opset {self.opset} of ONNX has no INT8 weights per channel: choose {INT8_OPSET} or higher"
            )
        if self.opset is not None and not OPSETS[0] <= self.opset <= OPSETS[1]:
            raise InputError(f"--opset {self.opset} cannot be written: choose one of {OPSETS[0]} to {OPSETS[1]}")
        one_image_only = [each.argument for each in formats if each.argument in ONE_IMAGE]
        if self.batch_size > 1 and one_image_only:
            raise InputError(
                f"--include {one_image_only[0]} takes one image per call: leave out --batch-size {self.batch_size}"
            )

    def nms_settings(self) -> NmsSettings | None:
        """Settings of the suppression inside the graph, or None without one."""
        if not self.nms:
            return None
        names = ("conf_thres", "iou_thres", "topk_per_class", "topk_all")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return NmsSettings(agnostic=self.agnostic_nms, **given)
