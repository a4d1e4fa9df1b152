#!/usr/bin/env python3
"""Export a YOLOv5 detector, pruned or not, to the formats of other runtimes, and check what they compute.

python export.py --weights best.pt                    # best.torchscript and best.onnx, at the size of the training
python export.py --weights best.pt --include onnx openvino --dynamic          # any batch and image size
python export.py --weights best.pt --include onnx --nms --conf-thres 0.4      # the graph gives detections
python export.py --weights best.pt --include onnx --raw-heads                 # for compilers of chips, see docs/NPU.md
python export.py --weights best.pt --include openvino --int8                  # calibrated on its training images
The result is written next to the checkpoint, and val.py, detect.py and torch.hub take it like the checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.exporters.options import ExportOptions
from models.formats import CHECKPOINTS, Format, export_formats, find_formats, format_of
from utils.commands.cli import run_command, show_arguments
from utils.commands.next_steps import following, log_next
from utils.commands.options import build, parse
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


def next_steps(file: Path, options: ExportOptions) -> list[str]:
    """The commands that measure an export and detect with it; none where the file cannot be run.

    Args:
        file: the export.
        options: those that it was made with; ``data`` is '' if there is no data set.
    """
    if file.suffix == ".mlpackage" and sys.platform != "darwin":
        return []
    nms = options.nms_settings()
    thresholds: dict[str, Any] = {"conf_thres": nms.conf_thres, "iou_thres": nms.iou_thres} if nms else {}
    given: dict[str, Any] = {"weights": file, **({"device": "0"} if file.suffix == ".engine" else {})}
    detecting, validating = given | thresholds, given | {"data": options.data} | thresholds
    if nms and nms.agnostic:
        detecting["agnostic_nms"] = True
    height, width = options.imgsz
    if format_of(file) in CHECKPOINTS:  # the format has no place for an image size
        detecting["imgsz"] = [height] if height == width else options.imgsz
        validating["imgsz"] = max(height, width)
    elif height != width:
        validating["imgsz"] = max(height, width)
    squares = height == width or options.dynamic or format_of(file) in CHECKPOINTS  # validation takes no others
    measured = [following("val.py", ValOptions, None, **validating)] if options.data and squares else []
    return [*measured, following("detect.py", DetectOptions, None, **detecting)]


def report(exports: Mapping[Path, ExportOptions]) -> None:
    """Log where the exports are, and what to run next; ``exports``: file -> options that it was made with."""
    files = list(exports)
    LOGGER.info(f"Exports saved to {colorstr('bold', str(files[-1].parent.resolve()))}")
    LOGGER.info(f"In Python: {line_of_python(files[-1])}")
    steps = [step for file, options in exports.items() for step in next_steps(file, options)]
    if any(file.suffix == ".mlpackage" for file in files) and sys.platform != "darwin":
        LOGGER.info("An .mlpackage runs on Apple computers: open it there with Xcode, detect.py or val.py")
    if steps:
        log_next(*steps)


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
    from models.exporters.request import make_request, with_training
    from utils.device import device_line, select_device

    show_arguments("export", options)
    device = select_device(options.device)
    LOGGER.info(device_line(device))
    if device.type != "cuda" and any(each.argument == "engine" for each in formats):
        raise InputError("--include engine has to run on the GPU that the engine is for: choose it with --device 0")
    exports: dict[Path, ExportOptions] = {}
    for weights in options.weights:
        complete = with_training(options, weights)
        checkpoint = CheckpointExport(weights, make_request(complete), device)
        exports |= {checkpoint.export(each): complete for each in formats}
    report(exports)
    return list(exports)


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(lambda: main(parse(ExportOptions, "Export a YOLOv5 detector to other formats.")))


if __name__ == "__main__":
    cli()
