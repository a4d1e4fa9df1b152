"""Properties of pruning that hold for any network: surgery, folding and costs, on configurations made by chance."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import nn

from models.description import describe
from models.yolo import DetectionModel
from prune_tools.channels.groups import find_groups
from prune_tools.channels.structure import Structure
from prune_tools.planning.costs import CostModel
from prune_tools.repair.folding import fold_constants
from prune_tools.units.removal import Removal, find_blocks, moved_paths, remove_units, silence
from prune_tools.yolo_pruned import largest_difference, mask_model, prune_model
from tests.profiles import load_profile
from tests.pruning_networks import pad_by_repetition, random_images, random_plan, with_random_norms
from utils.errors import InputError
from utils.model_info import count_parameters, gflops

load_profile()

WIDTHS = st.sampled_from([8, 12, 16])
KERNELS = st.sampled_from([1, 3])


@st.composite
def blocks(draw: st.DrawFn, stride: int = 1) -> tuple[str, list[Any]]:
    """A block that keeps the size of its map or halves it, and its arguments; widths are multiples of four."""
    width = draw(WIDTHS)
    if stride == 2:
        name = draw(st.sampled_from(["Conv", "DWConv", "GhostBottleneck"]))
        return name, [width, 3, 2]
    name = draw(
        st.sampled_from(
            ["Conv", "C3", "C3x", "C3Ghost", "C3SPP", "C3TR", "BottleneckCSP", "Bottleneck", "SPP", "SPPF", "GhostConv",
             "CrossConv", "MixConv2d"]
        )
    )  # fmt: skip
    arguments: dict[str, list[Any]] = {
        "Conv": [width, draw(KERNELS)],
        "GhostConv": [width, draw(KERNELS)],
        "C3": [width, draw(st.booleans())],
        "C3x": [width, draw(st.booleans())],
        "BottleneckCSP": [width, draw(st.booleans())],
        "Bottleneck": [width, draw(st.booleans())],
        "CrossConv": [width, 3, 1, 1, 1.0, draw(st.booleans())],
        "MixConv2d": [width, [1, 3], 1],
    }
    return name, arguments.get(name, [width])


@st.composite
def repeated(draw: st.DrawFn) -> tuple[int, str, list[Any]]:
    """A block of stride 1 behind its number of repeats, which only those of the C3 family take with any width."""
    name, arguments = draw(blocks())
    takes_repeats = name in ("C3", "C3x", "C3Ghost", "C3TR", "BottleneckCSP")
    return draw(st.integers(1, 2)) if takes_repeats else 1, name, arguments


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """A backbone of strides 2, 4 and 8, a top-down path with concatenations, and one to three outputs."""
    rows: list[list[Any]] = [[-1, 1, *draw(st.sampled_from([("Conv", [8, 6, 2, 2]), ("Focus", [8, 3])]))]]
    ends = []  # the last layer of each scale, fine to coarse
    for _ in range(2):
        for _ in range(draw(st.integers(0, 2))):
            rows.append([-1, *draw(repeated())])
        ends.append(len(rows) - 1)
        rows.append([-1, 1, *draw(blocks(stride=2))])
    rows.append([-1, 1, *draw(blocks())])
    backbone, outputs = len(rows), [len(rows) - 1]
    for end in reversed(ends):
        rows.append([-1, 1, "nn.Upsample", ["None", 2, "nearest"]])
        rows.append([[-1, end], 1, "Concat", [1]])
        rows.append([-1, *draw(repeated())])
        outputs.append(len(rows) - 1)
    chosen = draw(st.lists(st.sampled_from(outputs), min_size=1, max_size=3, unique=True))
    rows.append([sorted(chosen, reverse=True), 1, "Detect", ["nc", "anchors"]])
    scale = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 3}
    return {**scale, "backbone": rows[:backbone], "head": rows[backbone:]}


def model_of(config: dict[str, Any]) -> DetectionModel:
    """The network of a configuration as after a training."""
    try:
        return with_random_norms(DetectionModel(deepcopy(config)))
    except InputError as error:  # attention over all pixels of a fine grid
        assert "use fewer channels, or a stride" in str(error)
        reject()


def network(config: dict[str, Any]) -> Structure:
    """The network of a configuration, with the groups of scope all."""
    return Structure.of(model_of(config)).select("all")


@pytest.mark.slow
@given(configurations(), st.integers(0, 1000))
def test_pruned_equals_masked_at_the_cost_foretold(config, seed):
    structure = network(config)
    full, groups = structure.model, structure.groups
    plan, pruned = random_plan(groups, seed), deepcopy(full)
    prune_model(pruned, groups, plan)
    assert largest_difference(pruned, mask_model(full, groups, plan), random_images(full))[1] < 1e-9
    rebuilt = DetectionModel(pruned.yaml)
    assert {name: value.shape for name, value in rebuilt.state_dict().items()} == {
        name: value.shape for name, value in pruned.state_dict().items()
    }
    costs = CostModel(structure).of_plan(plan)
    assert costs["params"] == pytest.approx(count_parameters(pruned), abs=1e-3)
    assert costs["flops"] == pytest.approx(1e9 * gflops(pruned, 640), rel=1e-9)
    scaled = sum(len(member.indices) for group in find_groups(pruned) for member in group.norms)  # it can be cut again
    assert scaled == sum(norm.num_features for norm in pruned.modules() if isinstance(norm, nn.BatchNorm2d))


@pytest.mark.slow
@given(configurations(), st.integers(0, 1000))
def test_folded_equals_the_gamma_zeroed_model_without_zero_padding(config, seed):
    structure = network(config)
    full, groups = structure.model, structure.groups
    pad_by_repetition(full)
    plan, pruned = random_plan(groups, seed), deepcopy(full)
    prune_model(pruned, groups, plan)
    assert not fold_constants(structure, pruned, plan).left_out
    expected = mask_model(full, groups, plan, beta=False)
    assert largest_difference(pruned, expected, random_images(full))[1] < 1e-9


@pytest.mark.slow
@given(configurations(), st.data())
def test_without_levels_and_blocks_the_rest_computes_the_same(config, data):
    full = model_of(config)
    levels = data.draw(st.lists(st.sampled_from(range(full.model[-1].nl)), max_size=full.model[-1].nl - 1, unique=True))
    blocks = data.draw(st.lists(st.sampled_from(find_blocks(full)), unique=True)) if find_blocks(full) else []
    removal = Removal(tuple(sorted(levels)), tuple(sorted(blocks)))
    reduced = remove_units(full, removal)
    with torch.no_grad():
        expected = silence(full, Removal((), removal.blocks))(random_images(full))[1]
        got = reduced(random_images(full))[1]
    kept = [level for level in range(full.model[-1].nl) if level not in levels]
    assert len(got) == len(kept) and all(torch.equal(ours, expected[k]) for ours, k in zip(got, kept, strict=True))
    assert not describe(reduced).keys() - full.yaml.keys()  # its rows say all
    owners = {name.rpartition(".")[0] for name, _ in reduced.named_parameters()}
    assert owners <= set(moved_paths(full, removal).values())


@pytest.mark.slow
def test_every_normalised_channel_that_stays_has_a_reason():
    config: dict[str, Any] = {
        "nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 3,
        "backbone": [[-1, 1, "Conv", [8, 6, 16, 2]], [-1, 1, "C3TR", [16]], [-1, 1, "Contract", [2]],
                     [-1, 1, "Conv", [16, 1]]],
        "head": [[[-1], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    model = DetectionModel(config)
    whole = {group.name: group.reason for group in find_groups(model) if group.norms and group.reason}
    assert "flatten of model.1.m (TransformerBlock)" in whole["model.1.cv1.conv"]
    assert "of model.2 (Contract)" in whole["model.1.cv3.conv"]
    assert torch.isfinite(model.eval()(torch.zeros(1, 3, 64, 64))[0]).all()
