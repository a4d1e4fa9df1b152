#!/usr/bin/env python3
"""Memory of a training from epoch to epoch: it must not grow.

    python benchmarks/memory.py --data data/mask_demo.yaml --cfg models/yolov5n_mask.yaml --imgsz 160 --epochs 20

Prints the memory of the process and its loader processes, and on a GPU the allocated memory, at the end of each
epoch. The first epochs fill caches; growth is counted from the third on. Linux only: it reads /proc.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.commands.cli import run_command
from utils.commands.options import build, option, parse
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.training.options import TrainOptions

SETTLED = 3  # epochs after which nothing should be allocated any more
MEGABYTE = 1e6


@dataclass
class MemoryOptions:
    """Options of the benchmark."""

    data: str = option(str(ROOT / "data/mask_demo.yaml"), "data set YAML")
    cfg: str = option(str(ROOT / "models/yolov5n_mask.yaml"), "model YAML, trained from scratch")
    imgsz: int = option(160, "image size in pixels")
    batch_size: int = option(16, "images per batch")
    epochs: int = option(20, "epochs")
    workers: int = option(2, "most data loading processes")
    cache: str | None = option(
        None, "keep images in memory or on disk", nargs="?", const="ram", choices=["ram", "disk"]
    )
    device: str = option("", "cpu, cuda device number such as 0, or mps")


def children(process: int) -> list[int]:
    """Process ids below ``process``, at any depth."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == process:
            found += [int(folder.name), *children(int(folder.name))]
    return found


def resident_megabytes() -> float:
    """Memory that this process and its children hold and do not share with files, MB."""
    total = 0
    for process in (os.getpid(), *children(os.getpid())):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty:", "Private_Clean:")))
    return total * 1024 / MEGABYTE


def proportional_megabytes() -> float:
    """Memory of this process and its children, MB; what they share with each other counts once."""
    total = 0
    for process in (os.getpid(), *children(os.getpid())):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / MEGABYTE


class PeakMemory:
    """The largest ``proportional_megabytes`` while a block runs, looked at several times a second.

    Attributes:
        megabytes: so far; 0 on systems that do not say.
    """

    def __init__(self, seconds: float = 0.2) -> None:
        """Look every ``seconds``."""
        self.megabytes = 0.0
        self._seconds, self._over = seconds, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            self.megabytes = max(self.megabytes, proportional_megabytes())
            self._over.wait(self._seconds)


class Diary:
    """Notes memory at the end of each epoch."""

    def __init__(self) -> None:
        """Nothing noted yet."""
        self.process: list[float] = []
        self.gpu: list[float] = []

    def note(self, *_: object) -> None:
        """An epoch is over, validation and checkpoints included."""
        import torch

        gc.collect()
        self.process.append(resident_megabytes())
        self.gpu.append(torch.cuda.memory_allocated() / MEGABYTE if torch.cuda.is_available() else 0.0)
        LOGGER.info(f"memory: {self.process[-1]:.1f} MB, on the GPU {self.gpu[-1]:.1f} MB")


def main(options: MemoryOptions) -> Diary:
    """Train in a temporary folder and report the growth of memory."""
    import train
    from utils.callbacks import Callbacks

    if not Path("/proc/self/smaps_rollup").is_file():
        raise InputError("this benchmark reads /proc/self/smaps_rollup, which this system does not have")
    if options.epochs <= SETTLED:
        raise InputError(f"--epochs must be more than {SETTLED}, got {options.epochs}")
    diary, callbacks = Diary(), Callbacks()
    callbacks.register_action("on_model_save", callback=diary.note)
    with tempfile.TemporaryDirectory() as folder:
        train.main(build(TrainOptions, weights="", project=folder, patience=0, **vars(options)), callbacks)
    for name, values in (("process", diary.process), ("GPU", diary.gpu)):
        first, last = values[SETTLED - 1], values[-1]
        epochs = len(values) - SETTLED
        LOGGER.info(
            f"{name}: {first:.1f} MB after epoch {SETTLED}, {last:.1f} MB after epoch {len(values)}, "
            f"{(last - first) / epochs:+.2f} MB an epoch"
        )
    return diary


if __name__ == "__main__":
    run_command(lambda: main(parse(MemoryOptions, "Memory of a training from epoch to epoch.")))
