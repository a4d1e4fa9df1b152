"""Costs of plans: equal to those of the networks that are really pruned."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

from models.yolo import DetectionModel
from prune_tools.channels.structure import Structure
from prune_tools.planning.costs import CostModel
from prune_tools.planning.goals import readable
from prune_tools.yolo_pruned import prune_model
from tests.pruning_networks import ARCHITECTURES, OWN_CONFIG, random_plan, thin, with_random_norms
from utils.model_info import count_parameters, gflops


def cost_model(model: DetectionModel, scope: str = "all") -> tuple[list, CostModel]:
    structure = Structure.of(model).select(scope)
    groups = structure.groups
    return groups, CostModel(structure)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["seed", "all"])
@pytest.mark.parametrize("name", [*ARCHITECTURES, "own"])
def test_costs_are_those_of_the_pruned_network(name, scope):
    full = with_random_norms(DetectionModel(OWN_CONFIG)) if name == "own" else thin(name)
    groups, costs = cost_model(full, scope)
    assert costs("params", costs.sizes) == pytest.approx(count_parameters(full), abs=1e-3)
    assert costs("flops", costs.sizes) == pytest.approx(1e9 * gflops(full, 640), rel=1e-12)
    plan, pruned = random_plan(groups, seed=3), deepcopy(full)
    prune_model(pruned, groups, plan)
    expected = costs.of_plan(plan)
    assert expected["params"] == pytest.approx(count_parameters(pruned), abs=1e-3)
    assert expected["flops"] == pytest.approx(1e9 * gflops(pruned, 640), rel=1e-9)


@pytest.mark.slow
def test_hand_counted():
    """The 32 channels behind the second convolution of yolov5n: itself, its norm, and two readers."""
    groups, costs = cost_model(DetectionModel("yolov5n.yaml"))
    index = next(index for index, group in enumerate(groups) if group.name == "model.1.conv")
    one_less = costs.sizes - np.eye(len(groups), dtype=int)[index]
    assert costs("params", costs.sizes) - costs("params", one_less) == pytest.approx(16 * 9 + 2 + 16 + 16)
    saved = costs("flops", costs.sizes) - costs("flops", one_less)
    assert saved == pytest.approx(2 * 160 * 160 * (16 * 9 + 4 + 16 + 16))


@pytest.mark.parametrize("quantity", ["params", "flops"])
def test_slope_is_the_cost_of_a_channel(quantity):
    groups, costs = cost_model(thin("yolov5n"))
    counts = np.array([max(1, group.size // 2) for group in groups], dtype=float)
    slope = costs.slope(quantity, counts)
    for index in range(len(groups)):
        step = np.eye(len(groups))[index] * 1e-3
        measured = (costs(quantity, counts + step) - costs(quantity, counts - step)) / 2e-3
        assert slope[index] == pytest.approx(measured, rel=1e-5)


@pytest.mark.parametrize(
    "quantity, cost, text",
    [
        ("params", 893_000, "0.893 M parameters"),
        ("params", 46_543_210, "46.5 M parameters"),
        ("flops", 2.4123e9, "2.41 GFLOPs"),
        ("latency", 12.345, "12.3 ms"),
    ],
)
def test_readable(quantity, cost, text):
    assert readable(quantity, cost) == text
