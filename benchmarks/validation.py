#!/usr/bin/env python3
"""Images per second of validation beside the plain way, parts of it, and its peak memory.

    python benchmarks/validation.py --data data/mask.yaml --weights best.pt --imgsz 320

The plain way: contiguous memory, NMS image by image, matching threshold by threshold in torch, pictures drawn in
between by the same process. Without --weights or --data, a network with random weights and drawn pictures serve.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, as_table, compare_seconds, in_turns
from benchmarks.material import demo_data, one_thread, random_checkpoint
from utils.cli import run_command
from utils.config import option, parse
from utils.errors import InputError
from utils.files import ROOT
from utils.log import LOGGER


@dataclass
class ValidationOptions:
    """Options of the benchmark."""

    data: str = option("", "data set YAML; default: demo pictures, drawn for this")
    weights: str = option("", "checkpoint; default: YOLOv5n with random weights")
    imgsz: int = option(320, "image size in pixels")
    batch_size: int = option(32, "images per batch")
    repetitions: int = option(5, "rounds")


def plain_matching(detections: Any, labels: Any, thresholds: Any) -> Any:
    """``utils.metrics.match_predictions`` threshold by threshold, in torch, pairs sorted and thinned out in NumPy."""
    import numpy as np
    import torch

    from utils.boxes import box_iou

    detections, labels, thresholds = (torch.as_tensor(values) for values in (detections, labels, thresholds))
    correct = torch.zeros(len(detections), len(thresholds), dtype=torch.bool)
    if not len(detections) or not len(labels):
        return correct.numpy()
    overlap = box_iou(labels[:, 1:], detections[:, :4])
    same_class = labels[:, :1] == detections[:, 5]
    for column, threshold in enumerate(thresholds):
        label, detection = torch.where((overlap >= threshold) & same_class)
        pairs = torch.stack((label, detection), 1).numpy()
        pairs = pairs[overlap[label, detection].numpy().argsort(kind="stable")[::-1]]
        for side in (1, 0):  # each detection's best label, then each label's first detection
            pairs = pairs[np.unique(pairs[:, side], return_index=True)[1]]
        correct[pairs[:, 1], column] = True
    return correct.numpy()


@contextmanager
def plain_way() -> Iterator[None]:
    """Validate the plain way meanwhile."""
    import torch

    from utils import charts
    from utils.background import BackgroundDrawing
    from utils.nms import non_max_suppression

    def image_by_image(prediction: Any, *arguments: Any, **keywords: Any) -> list[Any]:
        return [non_max_suppression(image[None], *arguments, **keywords)[0] for image in prediction]

    def contiguous(images: torch.Tensor, device: torch.device) -> torch.Tensor:
        return images.to(device).float() / 255

    with (
        mock.patch("utils.evaluator.non_max_suppression", image_by_image),
        mock.patch("utils.evaluator.prepare_images", contiguous),
        mock.patch("utils.evaluation.match_predictions", plain_matching),
        mock.patch("utils.background.BackgroundDrawing", lambda: BackgroundDrawing(0)),
        mock.patch.object(charts, "PNG_COMPRESSION", 6),
        mock.patch.object(torch, "channels_last", torch.contiguous_format),  # what val.py asks of the model
    ):
        yield


def measure(options: ValidationOptions | None = None) -> list[Figure]:
    """The figures of validation."""
    options = options or ValidationOptions()
    with tempfile.TemporaryDirectory() as folder:
        options.data = options.data or demo_data(Path(folder))
        options.weights = options.weights or str(random_checkpoint(Path(folder), "yolov5n"))
        with one_thread():
            figures = _validation(options, Path(folder))
        return [*figures, _memory(options, folder)]


def _validation(options: ValidationOptions, folder: Path) -> list[Figure]:
    import val

    results: dict[str, Any] = {}
    images = 0

    def ours(plots: bool, name: str = "ours") -> None:
        results[name] = val.run(
            options.data, options.weights, imgsz=options.imgsz, batch_size=options.batch_size, workers=0,
            plots=plots, device="cpu", project=str(folder), exist_ok=True,
        )[0]  # fmt: skip

    def plain(plots: bool) -> None:
        with plain_way():
            ours(plots, "plain")

    from utils.checks import check_dataset
    from utils.labels import find_images

    images = len(find_images(check_dataset(options.data)["val"]))
    figures = []
    for plots, goal, clock, subject in (
        (False, 1.45, time.process_time, "validation without pictures, CPU time of one thread"),
        (True, 2.0, time.perf_counter, "val.py as by default, with pictures, wall time"),
    ):
        calls = {"ours": lambda plots=plots: ours(plots), "plain": lambda plots=plots: plain(plots)}
        seconds = in_turns(calls, options.repetitions, clock)
        note = "contiguous, NMS and matching by image, " + ("drawn in between" if plots else "no pictures")
        figures.append(
            compare_seconds(f"{subject}, {options.imgsz} px", seconds["ours"], seconds["plain"], goal, note, images,
                            "images/s")
        )  # fmt: skip
    apart = max(abs(a - b) for a, b in zip(results["ours"], results["plain"], strict=True))
    if apart > 1e-3:
        raise InputError(f"the two ways do not agree: P, R or mAP differ by {apart:.2g}")
    return figures


def _memory(options: ValidationOptions, folder: str) -> Figure:
    """Peak memory of val.py in a process of its own."""
    command = [
        sys.executable, str(ROOT / "val.py"), "--data", options.data, "--weights", options.weights, "--imgsz",
        str(options.imgsz), "--batch-size", str(options.batch_size), "--workers", "0", "--device", "cpu",
        "--project", folder, "--name", "memory",
    ]  # fmt: skip
    report = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True); "
    report += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", report, *command], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    memory = int(done.stdout) * unit / 1e9
    return Figure("peak memory of validation, the largest process", "GB", memory, memory, 1.0, 0.0, None, "the same")


def main(options: ValidationOptions) -> list[Figure]:
    """Measure and print the table."""
    figures = measure(options)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(ValidationOptions, "Images per second of validation beside the plain way.")))
