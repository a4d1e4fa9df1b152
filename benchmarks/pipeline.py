#!/usr/bin/env python3
"""Images per second of training and validation, and peak memory.

    python benchmarks/pipeline.py --data data/mask_demo.yaml --cfg models/yolov5n_mask.yaml --imgsz 320 --batch-size 16

The first epoch warms up and is not counted. Memory is that of this process and its children, shared pages counted once
(0 where the system has no /proc). Figures of a busy machine vary: compare runs made side by side.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.memory import PeakMemory
from utils.commands.cli import run_command
from utils.commands.options import build, option, parse
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.training.options import TrainOptions


@dataclass
class BenchmarkOptions:
    """Options of the benchmark."""

    data: str = option(str(ROOT / "data/mask_demo.yaml"), "data set YAML")
    cfg: str = option(str(ROOT / "models/yolov5n_mask.yaml"), "model YAML, trained from scratch")
    imgsz: int = option(320, "image size in pixels")
    batch_size: int = option(16, "images per batch")
    epochs: int = option(3, "epochs, the first of which is not counted")
    workers: int = option(8, "most data loading processes")
    cache: str = option("auto", "as for train.py", nargs="?", const="ram", choices=["auto", "ram", "none"])
    device: str = option("", "cpu, cuda device number such as 0, or mps")
    output: str = option("", "JSON file for the result")


class Stopwatch:
    """Notes the seconds of each training epoch and each validation through the hooks."""

    def __init__(self) -> None:
        """Nothing measured yet."""
        self.training: list[float] = []
        self.validation: list[float] = []
        self.started = 0.0

    def start(self, *_: object, **__: object) -> None:
        """An epoch or a validation begins."""
        self.started = time.perf_counter()

    def end_training(self, **_: object) -> None:
        """The batches of an epoch are done; validation, if any, begins."""
        self.training.append(time.perf_counter() - self.started)
        self.start()

    def end_epoch(self, *_: object) -> None:
        """The validation of an epoch is done."""
        self.validation.append(time.perf_counter() - self.started)


def main(options: BenchmarkOptions) -> dict[str, float]:
    """Train a few epochs in a temporary folder; returns images per second and memory."""
    import train
    from utils.callbacks import Callbacks
    from utils.checks import check_dataset
    from utils.dataset.labels import find_images

    data = check_dataset(options.data)
    images, val_images = (len(find_images(data[split])) for split in ("train", "val"))
    chosen = {name: value for name, value in vars(options).items() if name != "output"}
    watch, callbacks = Stopwatch(), Callbacks()
    callbacks.register_action("on_train_epoch_start", callback=watch.start)
    callbacks.register_action("on_train_epoch_end", callback=watch.end_training)
    callbacks.register_action("on_fit_epoch_end", callback=watch.end_epoch)
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as peak:
        train.main(build(TrainOptions, weights="", project=folder, noplots=True, **chosen), callbacks)
    training, validation = statistics.median(watch.training[1:]), statistics.median(watch.validation[1:])
    result = {
        "train_images_per_second": images / training,
        "val_images_per_second": val_images / validation,
        "seconds_per_epoch": training,
        "peak_memory_gb": peak.megabytes / 1e3,
    }
    if options.output and int(os.environ.get("RANK", 0)) == 0:
        Path(options.output).write_text(json.dumps(result), encoding="utf-8")
    LOGGER.info("\n" + "\n".join(f"{name:26s} {value:9.2f}" for name, value in result.items()))
    return result


if __name__ == "__main__":
    run_command(lambda: main(parse(BenchmarkOptions, "Images per second of training and validation.")))
