#!/usr/bin/env python3
"""Run a script of any YOLOv5 checkout in its folder, and record its optimizer steps and the GPU's work.

    python benchmarks/gpu_probe.py RESULT.json plain|profiled FOLDER train.py --data ...

The script is not changed: torch calls a hook after each optimizer step, and its profiler records a few steps in the
middle of the run. Steps are timed on the GPU, by events between kernels, because the host may run ahead of it.
"""

from __future__ import annotations

import itertools
import json
import os
import runpy
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile

PROFILED = (30, 38)  # optimizer steps between which kernels are counted; a run has more


class Probe:
    """Record of the optimizer steps of this process."""

    def __init__(self, profiled: bool) -> None:
        """Observe every optimizer; ``profiled`` also records the kernels of some steps."""
        self.steps: list[float] = []  # host times in seconds
        self.events: list[torch.cuda.Event] = []
        self.kernels: list[tuple[float, float]] = []  # start and end in microseconds
        self.launches = 0
        self._profiler: profile | None = None
        self._profiled = profiled
        register_optimizer_step_post_hook(self._after_step)

    def _after_step(self, *_: object) -> None:
        self.steps.append(time.time())
        if torch.cuda.is_available():
            self.events.append(torch.cuda.Event(enable_timing=True))
            self.events[-1].record()
        if self._profiled and len(self.steps) == PROFILED[0]:
            self._profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self._profiler.start()
        elif self._profiler and len(self.steps) == PROFILED[1]:
            torch.cuda.synchronize()
            self._profiler.stop()
            self._count_kernels(self._profiler.events() or [])

    def _count_kernels(self, events: Iterable[FunctionEvent]) -> None:
        self.kernels = [
            (event.time_range.start, event.time_range.end)
            for event in events
            if event.device_type == torch.autograd.DeviceType.CUDA
        ]
        self.launches = sum("Launch" in event.name for event in events if not event.is_user_annotation)

    def result(self) -> dict[str, Any]:
        """Return the record as plain values; times per step are in seconds, ``milliseconds`` from step to step."""
        steps = PROFILED[1] - PROFILED[0]
        if self.events:
            torch.cuda.synchronize()
        return {
            "steps": self.steps,
            "milliseconds": [first.elapsed_time(then) for first, then in itertools.pairwise(self.events)],
            "kernels_per_step": len(self.kernels) / steps,
            "launches_per_step": self.launches / steps,
            "busy_per_step": joined(self.kernels) / steps / 1e6,
            "memory": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0,
        }


def joined(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of ``spans``, each (start, end)."""
    total, reached = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def main() -> None:
    """Run the script named on the command line and exit with its exit code."""
    output, way, folder, script, *arguments = sys.argv[1:]
    os.chdir(folder)
    sys.argv = [script, *arguments]
    sys.path[0] = folder
    probe = Probe(profiled=way == "profiled")
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        Path(output).write_text(json.dumps(probe.result()))


if __name__ == "__main__":
    main()
