#!/usr/bin/env python3
"""Runs a script of any YOLOv5 checkout, in its folder, and notes when optimizer steps ended and what the GPU did.

    python benchmarks/gpu_probe.py RESULT.json plain|profiled FOLDER train.py --data ...

The script is not changed: torch calls back after each optimizer step, and its profiler watches a few steps in the
middle of the run. Steps are timed on the GPU, by events between its kernels: the host may run ahead of it.
"""

from __future__ import annotations

import itertools
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

PROFILED = (30, 38)  # optimizer steps between which kernels are counted; a run has more


class Probe:
    """Notes of a run."""

    def __init__(self, profile: bool) -> None:
        """Watch every optimizer of this process."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.steps: list[float] = []  # host times
        self.events: list[Any] = []
        self.kernels: list[tuple[float, float]] = []
        self.launches = 0
        self._profiler: Any = None
        self._profile = profile
        register_optimizer_step_post_hook(self._after_step)

    def _after_step(self, *_: Any) -> None:
        import torch

        self.steps.append(time.time())
        if torch.cuda.is_available():
            self.events.append(torch.cuda.Event(enable_timing=True))
            self.events[-1].record()
        if not self._profile:
            return
        if len(self.steps) == PROFILED[0]:
            from torch.profiler import ProfilerActivity, profile

            self._profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self._profiler.__enter__()
        elif len(self.steps) == PROFILED[1]:
            torch.cuda.synchronize()
            self._profiler.__exit__(None, None, None)
            events = self._profiler.events()
            self.kernels = [
                (event.time_range.start, event.time_range.end)
                for event in events
                if event.device_type == torch.autograd.DeviceType.CUDA
            ]
            self.launches = sum("Launch" in event.name for event in events if not event.is_user_annotation)

    def result(self) -> dict[str, Any]:
        """Return what was noted, as plain values; GPU times in microseconds."""
        import torch

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
    """Length of the union of ``spans``."""
    total, reached = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def main() -> None:
    """Run the script named on the command line; its exit code is this one's."""
    output, way, folder, script, *arguments = sys.argv[1:]
    os.chdir(folder)
    sys.argv = [script, *arguments]
    sys.path[0] = folder
    probe = Probe(profile=way == "profiled")
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        Path(output).write_text(json.dumps(probe.result()))


if __name__ == "__main__":
    main()
