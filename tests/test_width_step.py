"""The step of widths: found by a trial, handed on, and taken from what was recorded. No test looks at a real clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.yolo import DetectionModel
from prune_tools import rounding
from prune_tools.channels.structure import Structure
from prune_tools.opening import Inputs
from prune_tools.options import PruneOptions
from prune_tools.pipeline_options import PipelineOptions
from prune_tools.planning import latency, width_step
from prune_tools.planning.goals import Limits, parse_target
from prune_tools.planning.width_step import Trial, within_reach
from prune_tools.sparsity.options import SparseOptions
from prune_tools.survey.options import SweepOptions
from tests.pruning_networks import thin
from utils.commands.options import build
from utils.errors import InputError
from utils.storage.files import write_yaml

POLARISED = {"penalty": "polarize", "target_flops": "0.5", "target_params": "", "round_to": 16}


@pytest.fixture(scope="module")
def nano() -> DetectionModel:
    return thin("yolov5n").float()


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes each trial find 16; the list holds the runtimes that were tried."""
    runtimes: list[str] = []

    def find_16(runtime: str) -> int:
        runtimes.append(runtime)
        return 16

    monkeypatch.setattr(rounding, "fastest_step", find_16)
    monkeypatch.setattr(rounding, "check_runtime", lambda runtime: None)
    return runtimes


def inputs_of(model: DetectionModel, options: Any, opt: Any = None) -> Inputs:
    return Inputs(options, model, {"model": model, "opt": opt}, {})


def pruning_step(model: DetectionModel, opt: Any = None, **keywords: Any) -> int | None:
    options = build(PruneOptions, **{"weights": "w.pt", "target_flops": "0.5", **keywords})
    return rounding.of_pruning(inputs_of(model, options, opt)).options.round_to


# -- the trial ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("even", "uneven", "operations", "step"),
    [
        ([8.0] * 6, [10.0] * 6, 1.0, 16),
        ([9.6] * 6, [10.0] * 6, 1.2, 16),  # 0.8 of the time per operation
        ([9.6] * 6, [10.0] * 6, 1.0, 8),
        ([8.0, 8.0, 8.0, 10.0, 10.0, 10.0], [10.0] * 6, 1.0, 8),  # the halves disagree: not clear
        ([8.0, 90.0, 8.0, 8.0, 8.0, 70.0], [10.0] * 6, 1.0, 16),  # outliers of a busy machine
    ],
)
def test_the_wide_step_must_be_clearly_faster(even, uneven, operations, step):
    assert Trial(even, uneven, operations).step == step


@pytest.mark.parametrize(("cost_of_even", "step"), [(0.7, 16), (1.0, 8)])
def test_a_trial_times_two_networks_and_leaves_threads_and_random_numbers_alone(
    cost_of_even, step, monkeypatch, caplog
):
    networks = []
    monkeypatch.setattr(latency, "prepare", lambda model, size, runtime: networks.append((model, size, runtime)))
    monkeypatch.setattr(width_step, "time_pair", lambda even, uneven: ([cost_of_even * 4] * 12, [4.0] * 12))
    monkeypatch.setattr(width_step, "gflops", lambda model, size: 1.0)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with caplog.at_level("INFO"):
        assert width_step.fastest_step("onnxruntime") == step
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    widths = [{layer.conv.out_channels for layer in model.model[:-1]} for model, _, _ in networks]
    assert widths == [{32}, {24, 40}]
    assert f"multiples of {step} " in caplog.text and "12 calls" in caplog.text


def test_both_calls_are_timed_in_alternation(monkeypatch):
    calls: list[str] = []
    now = iter(range(10**6))
    clock = SimpleNamespace(
        get_clock_info=lambda name: SimpleNamespace(implementation=name),
        perf_counter=lambda: float(next(now)),
        process_time=lambda: float(next(now)) / 1e3,
    )
    monkeypatch.setattr(width_step, "time", clock)
    even, uneven = width_step.time_pair(lambda: calls.append("even"), lambda: calls.append("uneven"))
    assert len(even) == len(uneven) == width_step.LEAST_CALLS and calls == len(calls) // 2 * ["even", "uneven"]
    assert even == pytest.approx([1.0] * len(even))


def test_reach_is_that_of_the_narrowest_network(nano):
    structure = Structure.of(nano).select("all")
    assert within_reach(structure, parse_target("flops", "0.5"), Limits(round_to=16))
    assert not within_reach(structure, parse_target("flops", "0.5"), Limits(round_to=64))
    assert not within_reach(structure, parse_target("params", "0.5"), Limits(max_layer_ratio=0.1))


# -- who decides -------------------------------------------------------------------------------------------------------


def test_without_a_runtime_to_try_the_step_is_8(nano, tried):
    assert pruning_step(nano) == 8
    assert build(SparseOptions, weights="w.pt").round_to == build(PipelineOptions).round_to == 8
    assert tried == []


def test_a_trial_decides_for_pruning_unless_the_step_is_given(nano, tried):
    assert pruning_step(nano, runtime="onnxruntime") == 16
    assert pruning_step(nano, runtime="openvino", target_latency="0.5", target_flops="") == 16
    assert tried == ["onnxruntime", "openvino"]
    assert pruning_step(nano, runtime="onnxruntime", round_to=4) == 4
    assert pruning_step(nano, runtime="onnxruntime", target_flops="", percent=0.4) == 1
    assert len(tried) == 2


def test_a_step_with_which_the_target_cannot_be_reached_is_not_taken(nano, tried, monkeypatch, caplog):
    monkeypatch.setattr(rounding, "fastest_step", lambda runtime: 64)
    with caplog.at_level("INFO"):
        assert pruning_step(nano, runtime="onnxruntime") == 8
    assert "with 64 the target cannot be reached" in caplog.text


def test_several_processes_make_no_trial(nano, tried, monkeypatch):
    monkeypatch.setattr(rounding, "current_world", lambda: SimpleNamespace(size=2))
    assert pruning_step(nano, runtime="onnxruntime") == 8 and tried == []


def test_pruning_takes_the_step_of_the_sparse_training_from_the_checkpoint(nano, tried):
    assert pruning_step(nano, POLARISED) == 16
    assert pruning_step(nano, {**POLARISED, "round_to": 8}, runtime="onnxruntime") == 8
    assert pruning_step(nano, POLARISED, round_to=4) == 4
    assert tried == []
    sweep = build(SweepOptions, weights="w.pt", by="flops")
    assert rounding.of_survey(inputs_of(nano, sweep, POLARISED)).options.limits().round_to == 16
    assert rounding.of_survey(inputs_of(nano, sweep)).options.round_to == 8


@pytest.mark.parametrize(
    "opt", [None, "text", {**POLARISED, "penalty": "l1"}, {**POLARISED, "target_flops": ""}]
    + [{**POLARISED, "round_to": step} for step in ("16", 0, True, None, 10**9)],
)  # fmt: skip
def test_a_record_without_a_sound_step_is_passed_over(opt):
    assert rounding.recorded_step(opt) is None


def test_sparse_training_records_its_step_and_hands_it_on(nano, tried, monkeypatch):
    monkeypatch.setattr(rounding, "load_model", lambda weights: (nano, {}))
    options = rounding.of_sparse_training(build(SparseOptions, weights="w.pt", runtime="onnxruntime"))
    assert (options.round_to, tried) == (16, ["onnxruntime"])
    assert options.same_pruning() == {"target_flops": "0.5", "round_to": 16}
    assert rounding.of_sparse_training(options) is options
    share = build(SparseOptions, weights="w.pt", target_share=0.3, runtime="onnxruntime")
    assert rounding.of_sparse_training(share).round_to == 1


def test_a_pipeline_tries_once_and_continues_with_what_it_recorded(nano, tried, monkeypatch, tmp_path):
    monkeypatch.setattr(rounding, "load_model", lambda weights: (nano, {}))
    record = tmp_path / "pipeline.yaml"
    given = build(PipelineOptions, weights="w.pt", runtime="onnxruntime")
    first = rounding.of_pipeline(given, record)
    assert first.of_penalty()["round_to"] == first.of_pruning()["round_to"] == 16 and tried == ["onnxruntime"]
    write_yaml(record, {"base": {"options": {"weights": "w.pt"}}, "sparse": {"options": POLARISED}})
    monkeypatch.setattr(rounding, "fastest_step", lambda runtime: 8)  # the next trial would differ
    assert rounding.of_pipeline(given, record) == first


def test_an_unknown_runtime_stops_a_pipeline_at_its_start(tmp_path):
    with pytest.raises(InputError, match="--runtime 'tea' is unknown"):
        rounding.of_pipeline(build(PipelineOptions, runtime="tea"), tmp_path / "pipeline.yaml")
