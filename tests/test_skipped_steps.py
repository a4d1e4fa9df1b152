"""Steps that loss scaling skips leave no trace: weights, optimizer, average, penalties and counters, resumed or not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.material import training_state
from models.loading import load_checkpoint
from prune_tools.sparsity.penalty import PenaltySettings, SparsityPenalty
from utils.checkpoint import save_checkpoint
from utils.training.engine import MAX_GRADIENT_NORM, optimizer_step, warm_up
from utils.training.epoch_loader import EpochLoader
from utils.training.optim import smart_optimizer
from utils.training.resume_checks import judge
from utils.training.resume_record import restore, snapshot
from utils.training.state import TrainingState

pytestmark = pytest.mark.slow  # many short trainings

STEPS = 7
OVERFLOWS = [(), (0,), (3,), (0, 1, 4), (6,)]
SEVERAL = OVERFLOWS[3]  # for what does not depend on the optimizer's kernels


class OverflowingScaler(torch.amp.GradScaler):
    """A scaler for the CPU whose scaled loss is infinite at chosen steps; all its scales are powers of two."""

    def __init__(self, overflow_at: Iterable[int]) -> None:
        super().__init__("cpu", init_scale=2.0**16)
        self.overflow_at, self.calls = set(overflow_at), 0

    def scale(self, outputs: Any) -> Any:
        self.calls += 1
        return super().scale(outputs) * (torch.inf if self.calls - 1 in self.overflow_at else 1.0)


def run_state(
    cfg: Path, optimizer: str, penalty: str, device: torch.device | str = "cpu"
) -> tuple[TrainingState, SparsityPenalty | None]:
    """A run of a tiny network, at its start, with warm-up over the first four steps."""
    state = training_state(str(cfg), ["a", "b"], 64, 4, STEPS, torch.device(device))
    state.loader = EpochLoader(torch.utils.data.DataLoader(range(STEPS)))
    state.nominal_batch_size, state.accumulate, state.warmup_batches = 4, 1, 4
    state.run = replace(state.run, options=replace(state.run.options, epochs=2))
    state.optimizer = smart_optimizer(state.model, optimizer, 0.01, 0.9, 5e-4)
    for group in state.optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    plug_in = None
    if penalty:
        plug_in = SparsityPenalty(PenaltySettings(penalty, sr=0.01, scope="all"))
        state.callbacks.add(plug_in)
        state.callbacks.begin(state)
        if plug_in.polarizer is not None:
            plug_in.polarizer.progress = 0.2  # channels are being chosen
    return state, plug_in


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (4, 3, 64, 64) and targets (8, 6) of step ``number``."""
    generator = torch.Generator().manual_seed(number)
    targets = torch.rand(8, 6, generator=generator) * 0.4 + 0.3
    targets[:, 0], targets[:, 1] = torch.arange(8) % 4, torch.arange(8) % 2
    return torch.rand(4, 3, 64, 64, generator=generator), targets


def train(state: TrainingState, first: int = 0, last: int = STEPS) -> None:
    """The steps of the engine, batch by batch."""
    state.model.train()
    for number in range(first, last):
        warm_up(state, number)
        images, targets = batch(number)
        loss, _ = state.compute_loss(state.model(images), targets)
        state.scaler.scale(loss).backward()
        state.pending_batches += 1
        optimizer_step(state, number)


def train_without(state: TrainingState, left_out: Iterable[int]) -> None:
    """Full precision, unfused kernels, no scaler; the batches ``left_out`` only move batch-norm statistics."""
    for group in state.optimizer.param_groups:
        group["fused"] = False
    state.model.train()
    for number in range(STEPS):
        warm_up(state, number)
        images, targets = batch(number)
        loss, _ = state.compute_loss(state.model(images), targets)
        if number in set(left_out):
            continue
        loss.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), MAX_GRADIENT_NORM)
        state.pending_batches = 1
        state.callbacks.run("on_before_optimizer_step", state)
        state.optimizer.step()
        state.callbacks.run("optimizer_step", state)
        state.optimizer.zero_grad()
        state.ema.update(state.model)


def check_equal(got: Any, expected: Any, path: str = "") -> None:
    """Compare nested containers; tensors within a few roundings of the kernels."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys(), path
        for key, value in expected.items():
            check_equal(got[key], value, f"{path}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected), path
        for number, value in enumerate(expected):
            check_equal(got[number], value, f"{path}.{number}")
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(got, expected, rtol=2e-4, atol=1e-6, msg=lambda text: f"{path}: {text}")
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, rel=1e-6), path
    else:
        assert got == expected or path.endswith((".fused", ".foreach")), path


def momenta(state: TrainingState) -> dict[str, Any]:
    """The optimizer's state; kernels differ in where they keep the number of steps."""
    saved = state.optimizer.state_dict()["state"]
    return {
        f"{key} {name}": torch.as_tensor(value).float() for key, own in saved.items() for name, value in own.items()
    }


@pytest.mark.parametrize(
    ("optimizer", "overflow_at"),
    [*(("SGD", steps) for steps in OVERFLOWS), *((name, SEVERAL) for name in ("Adam", "AdamW", "RMSProp"))],
    ids=str,
)
def test_a_skipped_step_leaves_no_trace(tiny_cfg, optimizer, overflow_at):
    (state, _), (expected, _) = run_state(tiny_cfg, optimizer, ""), run_state(tiny_cfg, optimizer, "")
    state.scaler = OverflowingScaler(overflow_at)
    train(state)
    train_without(expected, overflow_at)
    check_equal(state.model.state_dict(), expected.model.state_dict())
    check_equal(state.ema.ema.state_dict(), expected.ema.ema.state_dict())
    check_equal(momenta(state), momenta(expected))
    assert state.ema.updates == expected.ema.updates == STEPS - len(overflow_at)
    assert state.scaler.get_scale() == 2.0 ** (16 - len(overflow_at))
    assert (state.last_step, state.pending_batches) == (STEPS - 1, 0)


@pytest.mark.parametrize(
    ("optimizer", "overflow_at"), [*(("SGD", steps) for steps in OVERFLOWS), ("RMSProp", SEVERAL)], ids=str
)
@pytest.mark.parametrize("penalty", ["l1", "prox", "polarize"])
def test_penalties_take_no_part_in_a_skipped_step(tiny_cfg, optimizer, penalty, overflow_at):
    (state, own), (expected, other) = (run_state(tiny_cfg, optimizer, penalty) for _ in range(2))
    state.scaler = OverflowingScaler(overflow_at)
    train(state)
    train_without(expected, overflow_at)
    check_equal(state.model.state_dict(), expected.model.state_dict())
    check_equal(vars(own.course), vars(other.course))
    if penalty == "polarize":
        assert own.polarizer.chosen.any()
        check_equal(own.polarizer.state_dict(), other.polarizer.state_dict())


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_resumed_run_after_a_skipped_step_goes_on_exactly(tiny_cfg, tmp_path, optimizer, stopped_after):
    """Also where no step has been taken yet, so that nothing of an optimizer's state has a value."""
    overflow_at = (0, 4)
    whole, _ = run_state(tiny_cfg, optimizer, "")
    whole.scaler = OverflowingScaler(overflow_at)
    train(whole)

    first, _ = run_state(tiny_cfg, optimizer, "")
    first.scaler = OverflowingScaler(overflow_at)
    train(first, 0, stopped_after)
    checkpoint = {
        "epoch": 0, "best_fitness": 0.0, "model": first.model, "ema": first.ema.ema, "updates": first.ema.updates,
        "optimizer": first.optimizer.state_dict(), "resume": snapshot(first),
    }  # fmt: skip
    save_checkpoint(checkpoint, tmp_path / "last.pt")

    second, _ = run_state(tiny_cfg, optimizer, "")
    second.scaler = OverflowingScaler(number - stopped_after for number in overflow_at)
    loaded = load_checkpoint(tmp_path / "last.pt")
    path = str(tmp_path / "last.pt")
    restore(loaded, judge(loaded, path), second, path)
    second.epoch = 0  # the steps that follow are of the same epoch here
    train(second, stopped_after)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    for name, value in whole.ema.ema.state_dict().items():
        assert torch.equal(second.ema.ema.state_dict()[name], value), name
    assert second.ema.updates == whole.ema.updates == STEPS - len(overflow_at)
