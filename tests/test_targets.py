"""Plans for budgets of parameters, operations and time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prune_tools.channels.structure import Structure
from prune_tools.planning.costs import CostModel
from prune_tools.planning.goals import Limits, Target, parse_target
from prune_tools.planning.scores import gamma_scores
from prune_tools.planning.targets import RemovalPath, TargetPlanner
from tests.pruning_networks import thin
from utils.errors import InputError


@pytest.fixture(scope="module")
def parts():
    """Groups, scores and costs of a network whose layers have up to 128 channels."""
    model = thin("yolov5n").float()
    structure = Structure.of(model).select("all")
    groups = structure.groups
    return groups, gamma_scores(model, groups), CostModel(structure)


def counts_of(plan, groups) -> np.ndarray:
    return np.array([len(plan.kept[group.name]) for group in groups])


@pytest.mark.parametrize(
    "quantity, text, value, relative",
    [
        ("params", "0.9M", 9e5, False),
        ("params", "900k", 9e5, False),
        ("params", "900000", 9e5, False),
        ("params", "0.5", 0.5, True),
        ("flops", "2.1G", 2.1e9, False),
        ("flops", " 850 m", 8.5e8, False),
        ("flops", ".25", 0.25, True),
        ("latency", "12ms", 12.0, False),
        ("latency", "12", 12.0, False),
        ("latency", "0.6", 0.6, True),
    ],
)
def test_amounts(quantity, text, value, relative):
    target = parse_target(quantity, text)
    assert (target.quantity, target.relative) == (quantity, relative) and target.value == pytest.approx(value)


@pytest.mark.parametrize(
    "quantity, text",
    [
        ("params", "many"),
        ("params", "-1M"),
        ("params", "0"),
        ("params", "3ms"),
        ("flops", "2.1"),
        ("flops", "1"),
        ("latency", "2G"),
        ("latency", ""),
        ("params", "nan"),
    ],
)
def test_what_is_no_amount(quantity, text):
    with pytest.raises(InputError, match=rf"--target-{quantity} '.*' is not a valid amount: expected one such as"):
        parse_target(quantity, text)


@pytest.mark.slow
@pytest.mark.parametrize("round_to", [1, 4])
@pytest.mark.parametrize("quantity, share", [("params", 0.5), ("params", 0.8), ("flops", 0.5), ("flops", 0.25)])
def test_target_is_met(parts, quantity, share, round_to):
    groups, _, costs = parts
    plan = TargetPlanner(*parts, Limits(round_to=round_to)).plan(Target(quantity, share, relative=True))
    reached = costs.of_plan(plan)[quantity] / costs(quantity, costs.sizes)
    assert share * 0.98 <= reached <= share
    assert "Target met" in plan.summary() and "below it" not in plan.summary()
    for group in groups:
        count = len(plan.kept[group.name])
        assert count % round_to == 0 or count == group.size
        scores = parts[1][group.name]  # nothing that goes is worth more than what stays
        gone = plan.removed(group)
        assert not len(gone) or scores[plan.kept[group.name]].min() >= scores[gone].max()


@pytest.mark.slow
def test_absolute_and_relative_targets_agree(parts):
    costs = parts[2]
    planner = TargetPlanner(*parts)
    half = planner.plan(Target("params", 0.5, relative=True))
    same = planner.plan(Target("params", 0.5 * costs("params", costs.sizes), relative=False))
    assert (counts_of(half, parts[0]) == counts_of(same, parts[0])).all()


@pytest.mark.parametrize(
    "target",
    [
        Target("params", 893_123.0, relative=False),
        Target("flops", 2_099_999_999.0, relative=False),
        Target("latency", 12.345, relative=False),
        Target("flops", 1 / 3, relative=True),
    ],
)
def test_a_target_as_text_is_read_back(target):
    read = parse_target(target.quantity, str(target))
    assert (read.quantity, read.relative) == (target.quantity, target.relative)
    assert read.value == pytest.approx(target.value, rel=1e-12)


def test_limits_hold(parts):
    limits = Limits(min_channels=3, max_layer_ratio=0.6)
    plan = TargetPlanner(*parts, limits).plan(Target("params", 0.4, relative=True))
    for group in parts[0]:
        assert len(plan.kept[group.name]) >= max(min(3, group.size), 0.4 * group.size)


def test_a_miss_is_told():
    """One layer of 128 channels that may have 64 or 128: the target lies between."""
    model = thin("yolov5n").float()
    structure = Structure.of(model)
    groups = [group for group in structure.groups if group.name == "model.8.cv3.conv"]
    structure = replace(structure, groups=groups)
    planner = TargetPlanner(groups, gamma_scores(model, groups), CostModel(structure), Limits(round_to=64))
    plan = planner.plan(Target("params", 0.999, relative=True))
    assert len(plan.kept["model.8.cv3.conv"]) == 64
    assert "below it: the nearest step" in plan.summary()


def test_impossible_target_says_what_is_possible(parts):
    groups, _, costs = parts
    least = costs("params", np.ones(len(groups))) / 1e6
    with pytest.raises(InputError, match=rf"--target-params .* cannot be reached: .* is {least:.3g} M parameters"):
        TargetPlanner(*parts).plan(Target("params", 10, relative=False))


@pytest.mark.parametrize("value, relative", [(1e12, False), (1.0, True)])
def test_target_that_is_met_already(parts, value, relative):
    with pytest.raises(InputError, match="no less than what the model has already"):
        TargetPlanner(*parts).plan(Target("flops", value, relative))


def test_no_groups(parts):
    with pytest.raises(InputError, match="no prunable layers"):
        TargetPlanner([], {}, parts[2])


def test_without_regard_to_cost_the_path_is_one_threshold(parts):
    groups, scores, costs = parts
    values = [scores[group.name].double().numpy() for group in groups]
    path = RemovalPath(values, costs, "params", Limits(), cost_exponent=0)
    removed = 400
    threshold = np.sort(np.concatenate(values))[removed]
    counts = path.counts[removed]
    free = counts > 1  # a group that has come down to one channel stops there
    assert (counts[free] == [(value >= threshold).sum() for value in np.array(values, dtype=object)[free]]).all()


def test_path_prefers_what_saves_more(parts):
    """Of two groups with equal scores, the one whose channels cost more goes first."""
    groups, _, costs = parts
    names = [group.name for group in groups]
    values = [np.full(group.size, 1e6) for group in groups]
    cheap, dear = names.index("model.2.m.0.cv1.conv"), names.index("model.8.cv3.conv")
    for index in (cheap, dear):
        values[index] = np.linspace(1, 1.01, groups[index].size)
    path = RemovalPath(values, costs, "params", Limits())
    assert path.order[0] == dear
    assert (np.diff(path.costs) < 0).all() and (path.counts[-1] == 1).all()


def test_what_fits_back_in_stays(parts):
    groups, scores, costs = parts
    path = RemovalPath([scores[group.name].double().numpy() for group in groups], costs, "params", Limits(round_to=4))
    budget = 0.6 * path.costs[0]
    reached = int((path.costs <= budget).argmax())
    counts = path.within(budget)
    assert (counts >= path.counts[reached]).all()
    assert path.costs[reached] <= costs("params", counts) <= budget


class FakeMachine:
    """Time grows with operations, on a machine that is slower from one measurement to the next."""

    def __init__(self, costs: CostModel, fixed: float = 2.0) -> None:
        self.costs, self.fixed, self.slowness, self.calls = costs, fixed, 1.0, 0

    def milliseconds(self, operations: float) -> float:
        whole = self.costs("flops", self.costs.sizes)
        return self.slowness * (self.fixed + 10 * operations / whole)

    def measure(self, plan) -> tuple[float, float]:
        self.calls += 1
        self.slowness *= 1.03
        return self.milliseconds(self.costs.of_plan(plan)["flops"]), self.milliseconds(
            self.costs("flops", self.costs.sizes)
        )


def test_latency_as_a_ratio_on_a_machine_that_slows_down(parts):
    machine = FakeMachine(parts[2])
    plan = TargetPlanner(*parts).plan(Target("latency", 0.6, relative=True), machine.measure)
    reached = machine.milliseconds(parts[2].of_plan(plan)["flops"]) / machine.milliseconds(
        parts[2]("flops", parts[2].sizes)
    )
    assert 0.58 <= reached <= 0.6
    assert machine.calls <= 12 and " ms of at most " in plan.summary()


def test_latency_after_a_measurement_that_another_process_disturbed(parts):
    machine = FakeMachine(parts[2])

    def measure(plan) -> tuple[float, float]:
        fast, whole = machine.measure(plan)
        return (9 * fast, whole) if machine.calls == 2 else (fast, whole)

    plan = TargetPlanner(*parts).plan(Target("latency", 0.8, relative=True), measure)
    reached = machine.milliseconds(parts[2].of_plan(plan)["flops"]) / machine.milliseconds(
        parts[2]("flops", parts[2].sizes)
    )
    assert 0.78 <= reached <= 0.8


def test_latency_that_is_out_of_reach(parts):
    machine = FakeMachine(parts[2], fixed=5.0)
    with pytest.raises(InputError, match=r"--target-latency 4 ms cannot be reached: .* is 5\.\d+ ms"):
        TargetPlanner(*parts).plan(Target("latency", 4, relative=False), machine.measure)
    assert machine.calls == 1


@pytest.mark.parametrize(("fixed", "said"), [(0.1, False), (500.0, True)])
def test_where_width_costs_no_time_it_is_said(parts, fixed, said):
    machine = FakeMachine(parts[2], fixed=fixed)
    with pytest.raises(InputError, match=r"--target-latency .* cannot be reached") as caught:
        TargetPlanner(*parts).plan(Target("latency", 1e-3, relative=False), machine.measure)
    assert ("fewer channels save little of it" in str(caught.value)) == said


def test_scores_of_equal_value_are_cut_from_the_end(parts):
    groups, _, costs = parts
    scores = {group.name: torch.ones(group.size) for group in groups}
    plan = TargetPlanner(groups, scores, costs).plan(Target("flops", 0.7, relative=True))
    assert all(kept.tolist() == list(range(len(kept))) for kept in plan.kept.values())
