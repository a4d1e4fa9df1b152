"""Batches that are replayed: recorded once, at fixed addresses, and left alone where they do not fit.

``Rerun`` stands for CUDA graphs on a CPU: it repeats a function by calling it again, and refuses what a graph could not
do: waiting for a value, or another address of a parameter, a gradient or an input.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks.material import training_state
from tests.test_loss import NoValues, random_labels
from utils.log import LOGGER
from utils.loss import ComputeLoss
from utils.training.batch_step import WARMUP_BATCHES, BatchStep, RecordedStep, batch_step
from utils.training.engine import optimizer_step
from utils.training.state import TrainingState


class Rerun:
    """See the module."""

    def __init__(self, state: TrainingState) -> None:
        self.state, self.recorded, self.replayed = state, 0, 0

    def addresses(self) -> list[int]:
        parameters = list(self.state.model.parameters())
        return [part.data_ptr() for own in parameters for part in (own, own.grad) if part is not None]

    def __call__(self, function: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        self.recorded += 1
        addresses, result = self.addresses(), torch.zeros(3)

        def replay() -> None:
            assert self.addresses() == addresses
            with NoValues():
                result.copy_(function())
            assert self.addresses() == addresses
            self.replayed += 1

        return replay, result


@pytest.fixture
def state(tiny_cfg) -> TrainingState:
    """A run whose loss has fixed shapes, as on a GPU."""
    made = training_state(str(tiny_cfg), ["a", "b"], 64, 4, 10)
    made.compute_loss.masked = True
    return made


def recorded(state: TrainingState) -> tuple[RecordedStep, Rerun]:
    record = Rerun(state)
    state.batch_step = RecordedStep(state, record)
    return state.batch_step, record


def train(state: TrainingState, step: BatchStep, batches: int = 9, accumulate: int = 1) -> list[torch.Tensor]:
    """Losses of each batch; each third one is smaller, and the numbers of labels differ."""
    losses = []
    state.model.train()
    for number in range(batches):
        size = 2 if number % 3 == 2 else 4
        pixels = torch.randint(
            0, 256, (size, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(number)
        )
        images = step.prepare(pixels)
        losses.append(step(images, random_labels(5 + 20 * (number % 5), size, 2, number)).clone())
        if (number + 1) % accumulate == 0:
            optimizer_step(state, number)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_replayed_batches_train_like_others(tiny_cfg, accumulate):
    outcomes = []
    for replayed in (False, True):
        state = training_state(str(tiny_cfg), ["a", "b"], 64, 4, 10)
        state.compute_loss.masked = True
        step, record = recorded(state) if replayed else (BatchStep(state), None)
        outcomes.append((train(state, step, accumulate=accumulate), state.model.state_dict()))
    assert record.recorded == len(step.recordings) == 4 and record.replayed == 9 - WARMUP_BATCHES
    for got, expected in zip(outcomes[1][0], outcomes[0][0], strict=True):
        assert torch.equal(got, expected)
    for name, value in outcomes[0][1].items():
        assert torch.equal(outcomes[1][1][name], value), name


def test_images_and_labels_keep_their_addresses(state):
    step, _ = recorded(state)
    addresses = set()
    for number in range(4):
        images = step.prepare(torch.full((4 - number % 2, 3, 64, 64), number, dtype=torch.uint8))
        assert torch.allclose(images, torch.tensor(number / 255)) and images.is_contiguous(
            memory_format=torch.channels_last
        )
        addresses.add(images.data_ptr())
    assert len(addresses) == 1
    larger = step.prepare(torch.zeros(8, 3, 64, 64, dtype=torch.uint8))
    other = step.prepare(torch.zeros(4, 3, 32, 64, dtype=torch.uint8))
    assert not {larger.data_ptr(), other.data_ptr()} & addresses


@pytest.mark.slow
@pytest.mark.parametrize("change", ["frozen", "eval", "gradient", "loss"])
def test_what_was_recorded_is_recorded_anew_where_it_has_changed(state, change):
    step, record = recorded(state)
    train(state, step)
    before = record.recorded
    layer = state.model.model[0]
    if change == "frozen":
        layer.conv.weight.requires_grad = False
    elif change == "eval":
        layer.bn.train = lambda mode=True: layer.bn  # a plug-in keeps its statistics
        layer.bn.training = False
    elif change == "gradient":
        layer.conv.weight.grad = None
    else:
        state.compute_loss = ComputeLoss(state.model)
        state.compute_loss.masked = True
    train(state, step)
    assert record.recorded > before


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["a hook is registered on Conv", "cannot be recorded", "no memory left"])
def test_what_cannot_be_recorded_is_computed_and_said_once(state, reason, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    step, record = recorded(state)
    if reason.startswith("a hook"):
        state.model.model[0].register_forward_hook(lambda *_: None)
    elif reason.startswith("cannot"):
        state.compute_loss.masked = False
    else:
        step.record = lambda function: (_ for _ in ()).throw(RuntimeError("no memory left\nand more"))
    losses = train(state, step)
    assert record.recorded == 0 and all(values.isfinite().all() for values in losses)
    assert caplog.text.count("CUDA graph: not used") == 1 and reason in caplog.text and "and more" not in caplog.text


def test_a_cpu_computes_operation_by_operation(state):
    assert type(batch_step(state)) is BatchStep
