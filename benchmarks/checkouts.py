"""Commands of any YOLOv5 checkout, started with the same flags and observed from outside.

The checkout needs no change: the times of its optimizer steps and of the rows in its results.csv are enough.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import InputError

PROBE = Path(__file__).with_name("gpu_probe.py")
SKIPPED_EPOCHS = 2  # at the start, when algorithms are chosen and CUDA graphs recorded
POLL_SECONDS = 0.005


@dataclass
class RowWatch:
    """Context in which a thread records when rows are added to a CSV file.

    Attributes:
        times: host time of each row, in seconds; the header does not count.
    """

    file: Path
    times: list[float] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> RowWatch:
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self.done.wait(POLL_SECONDS):
            if self.file.is_file():
                rows = self.file.read_bytes().count(b"\n") - 1
                self.times += [time.time()] * (rows - len(self.times))


def training_figures(
    steps: list[float], milliseconds: list[float], row_times: list[float], epochs: int
) -> dict[str, float]:
    """Return medians over the epochs of a run, without its first ``SKIPPED_EPOCHS``.

    Args:
        steps: host times of the optimizer steps. milliseconds: GPU time from each step to the next.
        row_times: host times of the rows of results.csv, one for each epoch.
        epochs: of the run.
    """
    per_epoch = len(steps) // epochs
    parts: dict[str, list[float]] = {"step": [], "epoch": [], "gap": [], "validation": []}
    for epoch in range(SKIPPED_EPOCHS, epochs):
        first = epoch * per_epoch
        last = first + per_epoch - 1
        previous_row = row_times[epoch - 1]
        parts["step"] += milliseconds[first : last - 1]  # without the step of the last, smaller batch
        parts["epoch"].append(row_times[epoch] - previous_row)
        parts["gap"].append(steps[first] - previous_row)
        parts["validation"].append(row_times[epoch] - steps[last])
    return {name: statistics.median(values) for name, values in parts.items()}


def start(checkout: Path, script: str, arguments: Sequence[object], folder: Path, way: str = "plain") -> dict[str, Any]:
    """Run a command of ``checkout`` under the probe and return what it recorded; ``way`` is plain or profiled.

    Raises:
        InputError: the command fails.
    """
    output = folder / "notes.json"
    output.unlink(missing_ok=True)
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    command = [sys.executable, PROBE, output, way, checkout.resolve(), script, *arguments]
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not output.is_file():
        raise InputError(f"{checkout}/{script} failed: {done.stderr.strip()[-400:]}")
    return json.loads(output.read_text())
