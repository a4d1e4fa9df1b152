"""Runs of other checkouts of YOLOv5 beside our own: the same commands and flags, watched from outside.

What is measured needs nothing of the checkout: when its optimizer steps, and when it writes a row of results.csv.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import InputError

PROBE = Path(__file__).with_name("gpu_probe.py")
SKIPPED_EPOCHS = 2  # at the start: algorithms are chosen, batches recorded


@dataclass
class Watch:
    """Notes when rows are added to a file, from a thread of its own."""

    file: Path
    times: list[float] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self._thread.join()

    def _look(self) -> None:
        rows = 0
        while not self.done.wait(0.005):
            if self.file.is_file():
                present = max(self.file.read_bytes().count(b"\n") - 1, 0)  # without the header
                self.times += [time.time()] * (present - rows)
                rows = max(rows, present)


def training_figures(
    steps: list[float], milliseconds: list[float], row_times: list[float], epochs: int
) -> dict[str, float]:
    """Medians over the epochs, the first ones left out.

    Args:
        steps: host times of the optimizer steps. milliseconds: on the GPU, from each to the next.
        row_times: host times of the rows of results.csv, one for each epoch.
        epochs: of the run.
    """
    per_epoch = len(steps) // epochs
    parts: dict[str, list[float]] = {"step": [], "epoch": [], "gap": [], "validation": []}
    for epoch in range(SKIPPED_EPOCHS, epochs):
        own = steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        before = row_times[epoch - 1]
        inside = milliseconds[epoch * per_epoch : (epoch + 1) * per_epoch - 1]
        parts["step"] += inside[:-1]  # without the last, smaller batch
        parts["epoch"].append(row_times[epoch] - before)
        parts["gap"].append(own[0] - before)
        parts["validation"].append(row_times[epoch] - own[-1])
    return {name: statistics.median(values) for name, values in parts.items()}


def start(checkout: Path, script: str, arguments: list[Any], folder: Path, way: str = "plain") -> dict[str, Any]:
    """Run a command of ``checkout`` under the probe; returns its notes. Raises InputError if it fails."""
    output = folder / "notes.json"
    output.unlink(missing_ok=True)
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    command = [sys.executable, PROBE, output, way, checkout.resolve(), script, *arguments]
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not output.is_file():
        raise InputError(f"{checkout}/{script} failed: {done.stderr.strip()[-400:]}")
    return json.loads(output.read_text())
