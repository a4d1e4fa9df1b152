#!/usr/bin/env python3
"""Images per second of detect.py with batches, beside one image at a time; wall time, labels and pictures written.

    python benchmarks/detection.py --source folder/ --weights best.pt --imgsz 320

Without --source or --weights, drawn pictures and a network with random weights serve.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, as_table, compare_seconds, in_turns
from benchmarks.material import demo_data, one_thread, random_checkpoint
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.log import LOGGER


@dataclass
class DetectionOptions:
    """Options of the benchmark."""

    source: str = option("", "folder of images; default: demo pictures, drawn for this")
    weights: str = option("", "checkpoint; default: YOLOv5n with random weights")
    imgsz: int = option(320, "image size in pixels")
    batch_size: int = option(16, "images per batch")
    repetitions: int = option(5, "rounds")


def measure(options: DetectionOptions | None = None) -> list[Figure]:
    """The figure of detection."""
    import detect
    from utils.detection.sources import LoadImages

    options = options or DetectionOptions()
    with tempfile.TemporaryDirectory() as folder, one_thread():
        if not options.source:
            options.source = str(Path(demo_data(Path(folder))).parent / "demo/images/train")
        options.weights = options.weights or str(random_checkpoint(Path(folder), "yolov5n"))
        count = len(LoadImages(options.source))

        def run(batch_size: int) -> None:
            detect.run(
                weights=options.weights, source=options.source, imgsz=options.imgsz, batch_size=batch_size,
                save_txt=True, device="cpu", project=folder, exist_ok=True,
            )  # fmt: skip

        calls = {"batches": lambda: run(options.batch_size), "single": lambda: run(1)}
        seconds = in_turns(calls, options.repetitions)
    subject = f"detect.py --batch-size {options.batch_size}, {options.imgsz} px, wall time, one thread"
    return [compare_seconds(subject, seconds["batches"], seconds["single"], None, "--batch-size 1", count, "images/s")]


def main(options: DetectionOptions) -> list[Figure]:
    """Measure and print the table."""
    figures = measure(options)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(DetectionOptions, "Images per second of detection in batches.")))
