"""Constant folding: exact wherever a constant map stays constant, that is, away from zero padding."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from models.common import Conv
from models.yolo import DetectionModel
from prune_tools.channels.structure import Structure
from prune_tools.planning.plan import Plan
from prune_tools.pruned_common import narrow_module
from prune_tools.repair.folding import fold_constants
from prune_tools.yolo_pruned import find_cuts, largest_difference, mask_model, prune_model
from tests.pruning_networks import (
    ARCHITECTURES,
    OWN_CONFIG,
    pad_by_repetition,
    random_images,
    random_plan,
    thin,
    with_random_norms,
)


def own_config(name: str, arguments: list) -> dict:
    """OWN_CONFIG with another row for growing the map."""
    config = deepcopy(OWN_CONFIG)
    row = next(row for row in config["head"] if row[2] == "DWConvTranspose2d")
    row[2:] = [name, arguments]
    return config


def folded(full: nn.Module, scope: str):
    """The pruned and folded network, the full one with the removed gammas zero, and what the folding reports."""
    structure = Structure.of(full).select(scope)
    groups = structure.groups
    plan, pruned = random_plan(groups, seed=5), deepcopy(full)
    prune_model(pruned, groups, plan)
    result = fold_constants(structure, pruned, plan)
    return pruned, mask_model(full, groups, plan, beta=False), result


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["seed", "all"])
@pytest.mark.parametrize("name", [*ARCHITECTURES, "own"])
def test_equals_the_gamma_zeroed_model_without_zero_padding(name, scope):
    full = with_random_norms(DetectionModel(own_config("nn.Upsample", ["None", 2]))) if name == "own" else thin(name)
    pad_by_repetition(full)
    pruned, expected, result = folded(full, scope)
    assert result.changed and not result.left_out
    assert largest_difference(pruned, expected, random_images(full))[1] < 1e-9


@pytest.mark.slow
def test_transposed_convolution_is_named_where_a_constant_ends():
    full = with_random_norms(DetectionModel(OWN_CONFIG))
    path = next(path for path, module in full.named_modules() if isinstance(module, nn.ConvTranspose2d))
    assert folded(full, "all")[2].left_out == [path]


def test_is_exact_inside_zero_padding():
    torch.manual_seed(0)
    first, second = Conv(3, 6, 3), Conv(6, 4, 3)
    full = with_random_norms(nn.Sequential(first, second, nn.Conv2d(4, 2, 1)))
    structure = Structure.of(full).select()
    groups = structure.groups
    plan = Plan({"0.conv": np.array([1, 4]), "1.conv": np.array([0, 2, 3])})
    expected = mask_model(full, groups, plan, beta=False)
    pruned = deepcopy(full)
    for path, cut in find_cuts(full, groups, plan).items():
        narrow_module(pruned.get_submodule(path), cut.inputs, cut.outputs)
    image = torch.rand(1, 3, 16, 16, dtype=torch.double)
    unfolded = (pruned(image) - expected(image)).abs()
    fold_constants(structure, pruned, plan)
    difference = (pruned(image) - expected(image)).abs()
    assert unfolded[..., 1:-1, 1:-1].min() > 1e-3
    assert difference[..., 1:-1, 1:-1].max() < 1e-12  # the second convolution is the only one that sees a border
    assert difference.max() > 1e-6


@pytest.mark.slow
def test_constants_of_zero_change_nothing():
    full = thin("yolov5n")
    for module in full.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.zero_()
    structure = Structure.of(full).select()
    groups = structure.groups
    plan, pruned = random_plan(groups), deepcopy(full)
    prune_model(pruned, groups, plan)
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    result = fold_constants(structure, pruned, plan)
    assert result.changed == 0 and result.largest == 0
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())


def test_reader_without_norm_and_bias_is_named():
    full = with_random_norms(nn.Sequential(Conv(3, 6, 3), nn.Conv2d(6, 4, 1, bias=False), nn.SiLU(), Conv(4, 2)))
    structure = Structure.of(full).select()
    plan, pruned = Plan({"0.conv": np.array([0, 5])}), deepcopy(full)
    result = fold_constants(structure, pruned, plan)
    assert result.left_out == ["silu"]
    assert "not followed: silu" in result.summary()
