#!/usr/bin/env python3
"""Export a YOLOv5 detector, pruned or not, to the formats of other runtimes, and check what they compute.

python export.py --weights best.pt --imgsz 320                                # best.torchscript and best.onnx
python export.py --weights best.pt --include onnx openvino --dynamic          # any batch and image size
python export.py --weights best.pt --include onnx --nms --conf-thres 0.4      # the graph gives detections
python export.py --weights best.pt --include openvino --int8 --data mask.yaml # calibrated on its training images
The result lies beside the checkpoint, and val.py, detect.py and torch.hub take it as they take the checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.formats import DEFAULT_OPSET, FORMATS, INT8_OPSET, ONE_IMAGE, OPSETS, Format, export_formats, find_formats
from utils.commands.cli import run_command, show_arguments
from utils.commands.next_steps import following
from utils.commands.options import LARGEST_IMAGE, as_list, build, check_numbers, option, parse, quoted
from utils.commands.packages import is_installed
from utils.errors import InputError, MissingFileError, short_repr
from utils.log import LOGGER, colorstr
from utils.storage.files import ROOT

if TYPE_CHECKING:
    from models.exporters.checkpoint import ExportRequest
    from models.exporters.graph_nms import NmsSettings

__all__ = ["ExportOptions", "export_formats", "run"]

DEFAULT_DATA = str(ROOT / "data/coco128.yaml")
REFUSED = {  # flags of v6.2 that no format of today has
    "inplace": "the exported head never writes in place, no runtime would gain from it: leave it out",
    "keras": "Keras models are not offered: leave it out, or use --include tflite",
    "optimize": "PyTorch for phones has ended, and torch's builds lack its optimizer: use ncnn, tflite or coreml",
}
CALIBRATION_IMAGES = 128
COMPARISON_IMAGES = 32
PROPERTIES = ("half", "dynamic", "int8", "nms")  # of the file: every format that is asked for must have them
NMS_FLAGS = ("agnostic_nms", "topk_per_class", "topk_all", "iou_thres", "conf_thres")


@dataclass
class ExportOptions:
    """Options of export.py."""

    data: str = option(
        DEFAULT_DATA, "data set YAML: the exports are compared on one of its images, --int8 is calibrated on others"
    )
    weights: list[str] = option(
        [str(ROOT / "yolov5s.pt")], "checkpoint; several are exported one by one", nargs="+", handed_on=False
    )
    imgsz: list[int] = option(
        [640],
        "image size in pixels: side of the square, or height and width",
        "--img",
        "--img-size",
        nargs="+",
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
    agnostic_nms: bool = option(False, "with --nms: let boxes of different classes suppress each other")
    topk_per_class: int | None = option(
        None, "with --nms: most detections of a class (default: 100)", type=int, at_least=1
    )
    topk_all: int | None = option(None, "with --nms: detections per image (default: 100)", type=int, at_least=1)
    iou_thres: float | None = option(
        None, "with --nms: NMS threshold (default: 0.45)", type=float, at_least=0, at_most=1, handed_on=False
    )
    conf_thres: float | None = option(
        None, "with --nms: least confidence (default: 0.25)", type=float, at_least=0, at_most=1, handed_on=False
    )
    include: list[str] = option(
        ["torchscript", "onnx"], "formats: " + " ".join(entry.argument for entry in FORMATS[1:]), nargs="+"
    )

    def __post_init__(self) -> None:
        """Refuse values that no export can use and flags that a format cannot honour, by name."""
        check_numbers(self)
        self.weights = as_list(self.weights)
        self.imgsz = [self.imgsz] if isinstance(self.imgsz, int) else list(self.imgsz)
        self.include = as_list(self.include)
        if len(self.imgsz) not in (1, 2):
            raise InputError(f"--imgsz takes one or two numbers (height width), got {short_repr(self.imgsz)}")
        self.imgsz = self.imgsz * 2 if len(self.imgsz) == 1 else self.imgsz
        if self.workspace is not None and self.workspace <= 0:
            raise InputError(f"--workspace must be above 0 GiB, got {self.workspace:g}")
        for name, reason in REFUSED.items():
            if getattr(self, name):
                raise InputError(f"--{name} is not possible: {reason}")
        self._check_flags(find_formats(self.include))

    def _check_flags(self, formats: list[Format]) -> None:
        """Raise InputError for a flag that one of the formats cannot honour, or that concerns none of them."""
        for name in PROPERTIES:
            unable = [entry.argument for entry in formats if name not in entry.can]
            if getattr(self, name) and unable:
                able = " ".join(entry.argument for entry in FORMATS if name in entry.can) or "no format yet"
                raise InputError(f"--{name} is not possible with --include {unable[0]}: possible with {able}")
        for name in sorted({flag for entry in FORMATS for flag in entry.flags}):
            concerned = [entry.argument for entry in FORMATS if name in entry.flags]
            if getattr(self, name) not in (None, False) and not any(name in entry.flags for entry in formats):
                raise InputError(f"--{name} concerns {' '.join(concerned)}, and none of them is in --include")
        given = [name for name in NMS_FLAGS if getattr(self, name) not in (None, False)]
        if given and not self.nms:
            raise InputError(f"--{given[0].replace('_', '-')} only acts on NMS inside the graph: add --nms")
        if self.calibration_images is not None and not self.int8:
            raise InputError("--calibration-images only acts on the ranges of INT8 numbers: add --int8")
        if self.int8 and self.half:
            raise InputError("--int8 and --half contradict each other: give one of them")
        quantizes_onnx = self.int8 and any(entry.argument == "onnx" for entry in formats)
        if quantizes_onnx and self.opset is not None and self.opset < INT8_OPSET:
            raise InputError(
                f"--opset {self.opset} of ONNX has no INT8 weights by channel: choose one from {INT8_OPSET} on"
            )
        if self.opset is not None and not OPSETS[0] <= self.opset <= OPSETS[1]:
            raise InputError(f"--opset {self.opset} cannot be written: choose one of {OPSETS[0]} to {OPSETS[1]}")
        single = [entry.argument for entry in formats if entry.argument in ONE_IMAGE]
        if self.batch_size > 1 and single:
            raise InputError(
                f"--include {single[0]} takes one image per call: leave out --batch-size {self.batch_size}"
            )

    def nms_settings(self) -> NmsSettings | None:
        """Of the suppression inside the graph, or None."""
        from models.exporters.graph_nms import NmsSettings

        given = {name: getattr(self, name) for name in ("conf_thres", "iou_thres", "topk_per_class", "topk_all")}
        chosen = {name: value for name, value in given.items() if value is not None}
        return NmsSettings(agnostic=self.agnostic_nms, **chosen) if self.nms else None

    def request(self) -> ExportRequest:
        """Return what the exports are to be like."""
        from models.exporters import GraphSettings
        from models.exporters.checkpoint import ExportRequest

        graph = GraphSettings(self.opset, self.simplify, self.workspace, self.verbose)
        size = self.imgsz[0], self.imgsz[1]
        files: list[str] = []
        if self.int8:
            from models.exporters.images import calibration_files

            files = calibration_files(self.data, self.calibration_images or CALIBRATION_IMAGES)
        return ExportRequest(
            size, self.batch_size, self.dynamic, self.half, self.nms_settings(), graph, files, comparison_files(self)
        )


def check_packages(formats: Sequence[Format], simplify: bool = False, int8: bool = False) -> None:
    """Raise InputError if a library is missing, before any work; it names everything to install at once."""
    needed = [pair for entry in formats for pair in entry.packages + (entry.int8_packages if int8 else ())]
    wanted = dict(needed)
    if simplify:
        wanted["onnxslim"] = "onnxslim"
    missing = [package for module, package in wanted.items() if not is_installed(module)]
    if missing:
        words = " ".join(entry.argument for entry in formats)
        words += " --simplify" * simplify + " --int8" * int8
        raise InputError(
            f"--include {words} needs packages that are not installed: "
            f"pip install {' '.join(missing)} (see requirements-export.txt)"
        )


def comparison_files(options: ExportOptions) -> list[str]:
    """Validation images to compare on; none when --data was not given and its default is not there.

    One is enough to compare numbers on. Detections, which are all that --nms gives and that INT8 can be judged by,
    need several.
    """
    from models.exporters.images import choose_files

    try:
        return choose_files(options.data, "val", COMPARISON_IMAGES if options.nms or options.int8 else 1)
    except MissingFileError:
        if options.data != DEFAULT_DATA:
            raise
        LOGGER.info("No images to compare on: a generated picture is used; --data names a data set with real ones")
        return []


def report(files: Sequence[Path], options: ExportOptions) -> None:
    """Log where the exports are and what to run next."""
    LOGGER.info(f"Exports saved to {colorstr('bold', str(files[-1].parent.resolve()))}. Next:")
    from detect import DetectOptions
    from models.checkpoints.safetensors_models import SUFFIX
    from val import ValOptions

    nms = options.nms_settings()
    thresholds: dict[str, Any] = {"conf_thres": nms.conf_thres, "iou_thres": nms.iou_thres} if nms else {}
    across = {"agnostic_nms": True} if nms and nms.agnostic else {}
    data = "DATA.yaml" if options.data == DEFAULT_DATA else options.data
    side = max(options.imgsz)
    is_square = side == min(options.imgsz)
    for file in files:
        if file.suffix == ".mlpackage" and sys.platform != "darwin":
            LOGGER.info(f"  on an Apple computer: open {quoted([str(file)])} with Xcode, detect.py or val.py")
            continue
        given: dict[str, Any] = {"weights": file, **({"device": "0"} if file.suffix == ".engine" else {})}
        detecting = given | {"source": "IMAGES", **thresholds, **across}
        validating = given | {"data": data, **thresholds}
        keeps_size = file.suffix != SUFFIX  # .safetensors knows none, as .pt
        if not keeps_size:
            detecting["imgsz"] = [side] if is_square else options.imgsz
        if not keeps_size or not is_square:
            validating["imgsz"] = side
        LOGGER.info(f"  {following('detect.py', DetectOptions, None, **detecting)}")
        if is_square or options.dynamic or not keeps_size:  # validation takes squares
            LOGGER.info(f"  {following('val.py', ValOptions, None, **validating)}")
        LOGGER.info(f"  torch.hub.load('.', 'custom', {str(file)!r}, source='local')")


def run(**keywords: Any) -> list[Path]:
    """Export from Python, ``export.run(weights='best.pt', include=['onnx'])``: the flags as keywords.

    Returns:
        The written files and folders, of each checkpoint in the order of the table of formats.

    Raises:
        InputError: a flag or a file cannot be used, a library is missing, or an export does not compute what the
            checkpoint does. What was exported before stays.
    """
    return main(build(ExportOptions, **keywords))


def main(options: ExportOptions) -> list[Path]:
    """Check everything, then export; returns what was written."""
    formats = find_formats(options.include)
    check_packages(formats, options.simplify, options.int8)
    from models.exporters.checkpoint import CheckpointExport
    from utils.device import device_line, select_device

    show_arguments("export", options)
    device = select_device(options.device)
    LOGGER.info(device_line(device))
    if device.type != "cuda" and any(entry.argument == "engine" for entry in formats):
        raise InputError("--include engine builds on the GPU that it is for: choose one with --device 0")
    request, files = options.request(), []
    for weights in options.weights:
        checkpoint = CheckpointExport(weights, request, device)
        files += [checkpoint.export(entry) for entry in formats]
    report(files, options)
    return files


if __name__ == "__main__":
    run_command(lambda: main(parse(ExportOptions, "Export a YOLOv5 detector to other formats.")))
