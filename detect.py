#!/usr/bin/env python3
"""Detect objects in images and videos with a YOLOv5 detector.

python detect.py --weights best.pt                             # the pictures in data/images
python detect.py --weights best.pt --source photo.jpg          # or folder/, 'folder/*.jpg', video.mp4, list.txt
                                            0                  # webcam
                                            rtsp://host/path   # or http://..., list.streams: a stream on each line
                                            https://host/photo.jpg
python detect.py --weights best.pt --source folder/ --batch-size 16        # more images per second
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.exporters.options import ExportOptions
from utils.commands.cli import run_command, show_arguments
from utils.commands.next_steps import following, log_next
from utils.commands.options import build, parse
from utils.detection.options import DetectOptions
from utils.errors import InputError
from utils.log import LOGGER, log_as_command


def detect(options: DetectOptions) -> tuple[Path, str]:
    """Detect and write; returns the run folder, and in words what could not be read or written ('': nothing)."""
    show_arguments("detect", options)
    from models.backends import DetectMultiBackend
    from models.loading import strip_optimizer
    from utils.detection import run

    outcome = run.detect(options, DetectMultiBackend)
    for file in options.weights if options.update else ():
        strip_optimizer(file)
    return outcome


def main(options: DetectOptions) -> Path:
    """Run the command; returns the run folder. Raises InputError, at the end, if a file was not read or written."""
    folder, shortcomings = detect(options)
    if len(options.weights) == 1 and options.weights[0].endswith(".pt"):  # an export is the end of the road
        given: dict[str, Any] = {"imgsz": options.imgsz} if options.imgsz else {}
        log_next(following("export.py", ExportOptions, None, weights=options.weights, include=["onnx"], **given))
    if shortcomings:
        raise InputError(shortcomings)
    return folder


def run(**keywords: Any) -> Path:
    """Detect from Python, ``detect.run(weights='best.pt', source='photo.jpg')``: the flags as keywords.

    Returns the run folder. A file that cannot be read, or whose results cannot be written, is only warned of.
    """
    log_as_command()
    folder, shortcomings = detect(build(DetectOptions, **keywords))
    if shortcomings:
        LOGGER.warning(shortcomings)
    return folder


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(lambda: main(parse(DetectOptions, "Detect objects in images and videos.")))


if __name__ == "__main__":
    cli()
