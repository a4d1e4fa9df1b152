"""What the penalty of sparse training costs; a part of benchmarks/training.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figure, in_turns
from benchmarks.material import training_state
from utils.storage.files import ROOT

PENALTIES = ("l1", "prox", "polarize")
PENALIZED = ("yolov5n", "yolov5x")  # the narrowest and the widest network


def measure(image_size: int = 320, batch_size: int = 16) -> list[Figure]:
    """Return what sparse training's hooks add to a step of the training, as shares of it."""
    figures = []
    for name in PENALIZED:
        state = training_state(str(ROOT / f"models/{name}.yaml"), ["object"], image_size, batch_size, 1)
        step_seconds = _step_seconds(state, image_size, batch_size)
        calls = {kind: _hooks(state, kind) for kind in PENALTIES}
        for kind, values in in_turns(calls, 20, time.process_time).items():
            share = 100 * statistics.median(values) / step_seconds
            note = f"1 % of a step of batch {batch_size}, the most allowed"
            subject = f"penalty {kind} with --sr-beta, {name}, {image_size} px"
            figures.append(Figure(subject, "% of a step", share, 1.0, 1 / share, 0.0, 1.0, note))
    return figures


def _step_seconds(state: Any, image_size: int, batch_size: int) -> float:
    """CPU time of the passes of a batch: those of two images, at the batch's cost for each. Leaves gradients."""
    import torch

    images = torch.rand(2, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        sum(output.square().mean() for output in state.model.train()(images)).backward()

    return statistics.median(in_turns({"step": step}, 2, time.process_time)["step"]) * batch_size / 2


def _hooks(state: Any, kind: str) -> Callable[[], object]:
    """Return what a training calls around each optimizer step with the penalty ``kind``."""
    from prune_tools.sparsity.penalty import PenaltySettings, SparsityPenalty

    penalty = SparsityPenalty(PenaltySettings(kind, sr=1e-9, sr_beta=1e-9))
    penalty.on_training_ready(state)
    state.pending_batches = 1

    def both() -> None:
        penalty.on_before_optimizer_step(state)
        if kind != "l1":  # which has nothing to do after the step
            penalty._after_step(state.optimizer)

    return both
