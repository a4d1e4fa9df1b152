"""Scores and the plan: which channels stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prune_tools.channels.groups import ChannelGroup, find_groups, select_groups
from prune_tools.opening import load_model
from prune_tools.planning.goals import Limits
from prune_tools.planning.plan import plan_by_percent
from prune_tools.planning.scores import gamma_scores
from prune_tools.yolo_pruned import prune_model
from utils.errors import InputError


@pytest.fixture
def two_groups() -> tuple[list[ChannelGroup], dict[str, torch.Tensor]]:
    groups = [ChannelGroup("a", np.arange(4), ()), ChannelGroup("b", np.arange(4, 10), ())]
    return groups, {"a": torch.tensor([0.9, 0.1, 0.5, 0.5]), "b": torch.tensor([0.05, 0.2, 0.3, 0.01, 0.25, 0.02])}


@pytest.mark.parametrize(
    "percent, a, b",
    [
        (0.0, [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]),
        (0.1, [0, 1, 2, 3], [0, 1, 2, 4, 5]),
        (0.5, [0, 2, 3], [2, 4]),
        (0.6, [0, 2, 3], [2]),
        (0.75, [0, 2, 3], [2]),  # the threshold is equal to a score: that channel stays; b is capped
        (0.99, [0], [2]),
    ],
)
def test_threshold_keeps_what_reaches_it(two_groups, percent, a, b):
    plan = plan_by_percent(*two_groups, percent)
    assert plan.kept["a"].tolist() == a
    assert plan.kept["b"].tolist() == b


def test_of_more_exact_zeros_than_are_to_go_the_first_go(two_groups):
    """Proximal sparse training makes ties at 0: the percentage is still met, and no other channel is touched."""
    groups, _ = two_groups
    scores = {"a": torch.tensor([0.9, 0.0, 0.5, 0.0]), "b": torch.tensor([0.0, 0.2, 0.3, 0.0, 0.25, 0.0])}
    for percent, a, b in ((0.0, [0, 1, 2, 3], range(6)), (0.3, [0, 2], range(1, 6)), (0.5, [0, 2], [1, 2, 4])):
        plan = plan_by_percent(groups, scores, percent)
        assert plan.kept["a"].tolist() == a
        assert plan.kept["b"].tolist() == list(b)
        assert plan.threshold == pytest.approx(0.2 if percent == 0.5 else 0.0)


def test_ceiling_is_the_last_percent_without_capping(two_groups):
    ceiling = plan_by_percent(*two_groups, 0.0).ceiling
    assert ceiling == pytest.approx(0.6)  # b's largest score, 0.3, has rank 6 of 10
    assert not plan_by_percent(*two_groups, ceiling).capped
    plan = plan_by_percent(*two_groups, ceiling + 0.1)
    assert plan.capped == {"b": 0}
    assert "They keep the fewest channels" in plan.summary() and "b (0)" in plan.summary()


def test_least_channels_stay_and_a_small_layer_stays_whole(two_groups):
    plan = plan_by_percent(*two_groups, 0.9, Limits(min_channels=5))
    assert plan.kept["a"].tolist() == [0, 1, 2, 3]
    assert plan.kept["b"].tolist() == [0, 1, 2, 4, 5]
    assert plan.capped == {"a": 1, "b": 0}


@pytest.mark.parametrize("percent", [-0.1, 1.0, 1.5, float("nan")])
def test_percent_outside_its_range(two_groups, percent):
    with pytest.raises(InputError, match=r"percent.*got"):
        plan_by_percent(*two_groups, percent)


@pytest.mark.parametrize(
    "limits, size, allowed",
    [
        ({}, 3, [1, 2, 3]),
        ({"min_channels": 2}, 4, [2, 3, 4]),
        ({"min_channels": 9}, 4, [4]),
        ({"round_to": 8}, 32, [8, 16, 24, 32]),
        ({"round_to": 8}, 20, [8, 16, 20]),  # a width of an earlier pruning may stay as it is
        ({"round_to": 8}, 6, [6]),
        ({"round_to": 8, "min_channels": 9}, 32, [16, 24, 32]),
        ({"max_layer_ratio": 0.5}, 5, [3, 4, 5]),
        ({"max_layer_ratio": 0.5, "round_to": 8}, 40, [24, 32, 40]),
    ],
)
def test_limits(limits, size, allowed):
    assert Limits(**limits).allowed(size) == allowed


def test_rounding_takes_the_nearest_and_of_two_the_larger():
    limits = Limits(round_to=8)
    assert [limits.nearest(32, count) for count in (0, 11, 12, 20, 31)] == [8, 8, 16, 24, 32]


def test_plan_within_limits(two_groups):
    plan = plan_by_percent(*two_groups, 0.9, Limits(round_to=2, max_layer_ratio=0.6))
    assert plan.kept["a"].tolist() == [0, 2]  # two of equal score: the first stays
    assert plan.kept["b"].tolist() == [0, 1, 2, 4]  # 40 % of 6 are 3, rounded to 4
    assert plan.capped == {"a": 1, "b": 0}


@pytest.mark.parametrize(
    "limits", [{"min_channels": 0}, {"round_to": 0}, {"max_layer_ratio": 0.0}, {"max_layer_ratio": float("nan")}]
)
def test_impossible_limits(limits):
    name, value = next(iter(limits.items()))
    with pytest.raises(ValueError, match=f"{name}.* got .*{name}={value}"):
        Limits(**limits)


@pytest.mark.slow
@pytest.mark.parametrize("percent, parameters", [(0.2, 1282091), (0.3, 1079403), (0.4, 892793), (0.5, 717672)])
def test_reference_checkpoint_keeps_the_reference_channels(shared_folder, percent, parameters):
    import json

    folder = shared_folder / "conformance/v6.2"
    model, _ = load_model(folder / "checkpoints_mask/reference_sparse.pt")
    groups = select_groups(find_groups(model))
    prune_model(model, groups, plan_by_percent(groups, gamma_scores(model, groups), percent))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    for row in json.loads((folder / "slim.json").read_text()):
        if row["percent"] == percent:
            assert {
                name: len(value) for name, value in model.state_dict().items() if name.endswith("bn.weight")
            } == row["channels"]
