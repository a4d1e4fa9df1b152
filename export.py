#!/usr/bin/env python3
"""Export a YOLOv5 detector, pruned or not, to the formats of other runtimes, and check what they compute.

python export.py --weights best.pt --imgsz 320                                # best.torchscript and best.onnx
python export.py --weights best.pt --include onnx openvino --dynamic          # any batch and image size
python export.py --weights best.pt --include onnx --nms --conf-thres 0.4      # the graph gives detections
python export.py --weights best.pt --include openvino --int8 --data mask.yaml # calibrated on its training images
The result is written next to the checkpoint, and val.py, detect.py and torch.hub take it like the checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.exporters.options import DEFAULT_DATA, ExportOptions
from models.formats import SAFETENSORS, Format, export_formats, find_formats
from utils.commands.cli import run_command, show_arguments
from utils.commands.next_steps import following
from utils.commands.options import build, parse, quoted
from utils.commands.packages import is_installed
from utils.detection.options import DetectOptions
from utils.errors import InputError
from utils.installation import PREFIX
from utils.log import LOGGER, colorstr, log_as_command
from utils.validation.options import ValOptions

__all__ = ["ExportOptions", "export_formats", "run"]


def check_packages(formats: Sequence[Format], simplify: bool = False, int8: bool = False) -> None:
    """Raise InputError, before any work, that names all missing packages at once."""
    packages: dict[str, str] = {}  # import name -> package
    for each in formats:
        packages.update(each.packages)
        if int8:
            packages.update(each.int8_packages)
    if simplify:
        packages["onnxslim"] = "onnxslim"
    missing = [package for module, package in packages.items() if not is_installed(module)]
    if missing:
        words = " ".join(each.argument for each in formats)
        words += " --simplify" * simplify + " --int8" * int8
        raise InputError(
            f"--include {words} needs packages that are not installed: "
            f"pip install {' '.join(missing)} (see requirements-export.txt)"
        )


def report(files: Sequence[Path], options: ExportOptions) -> None:
    """Log where the exports are and what to run next."""
    LOGGER.info(f"Exports saved to {colorstr('bold', str(files[-1].parent.resolve()))}. Next:")
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
        keeps_size = file.suffix != SAFETENSORS.suffix  # .safetensors knows none, as .pt
        if not keeps_size:
            detecting["imgsz"] = [side] if is_square else options.imgsz
        if not keeps_size or not is_square:
            validating["imgsz"] = side
        LOGGER.info(f"  {following('detect.py', DetectOptions, None, **detecting)}")
        if is_square or options.dynamic or not keeps_size:  # validation takes squares
            LOGGER.info(f"  {following('val.py', ValOptions, None, **validating)}")
        LOGGER.info(f"  {line_of_python(file)}")


def line_of_python(file: Path) -> str:
    """The line that opens an export in a program."""
    if PREFIX:
        return f"{PREFIX}load({str(file)!r})"
    return f"torch.hub.load('.', 'custom', {str(file)!r}, source='local')"


def run(**keywords: Any) -> list[Path]:
    """Export from Python, ``export.run(weights='best.pt', include=['onnx'])``: the flags as keywords.

    Returns:
        The written files and folders, of each checkpoint in the order of the table of formats.

    Raises:
        InputError: a flag or a file cannot be used, a library is missing, or an export does not compute what the
            checkpoint does. What was exported before stays.
    """
    log_as_command()
    return main(build(ExportOptions, **keywords))


def main(options: ExportOptions) -> list[Path]:
    """Check everything, then export; returns what was written."""
    formats = find_formats(options.include)
    check_packages(formats, options.simplify, options.int8)
    from models.exporters.checkpoint import CheckpointExport
    from models.exporters.request import make_request
    from utils.device import device_line, select_device

    show_arguments("export", options)
    device = select_device(options.device)
    LOGGER.info(device_line(device))
    if device.type != "cuda" and any(each.argument == "engine" for each in formats):
        raise InputError("--include engine has to run on the GPU that the engine is for: choose it with --device 0")
    request = make_request(options)
    files: list[Path] = []
    for weights in options.weights:
        checkpoint = CheckpointExport(weights, request, device)
        files += [checkpoint.export(each) for each in formats]
    report(files, options)
    return files


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(lambda: main(parse(ExportOptions, "Export a YOLOv5 detector to other formats.")))


if __name__ == "__main__":
    cli()
