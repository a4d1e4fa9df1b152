"""Head levels and residual blocks as units of pruning: surgery on rows, files, and what reads them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from models.backends import DetectMultiBackend
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools.channels.structure import Structure
from prune_tools.opening import load_model
from prune_tools.tuning.distillation import matching_levels
from prune_tools.units.removal import (
    Removal,
    find_blocks,
    obstacle,
    remove_units,
    silence,
)
from prune_tools.yolo_pruned import largest_difference, mask_model, prune_model, save_model
from tests.pruning_networks import ARCHITECTURES, OWN_CONFIG, random_images, random_plan, thin, with_random_norms
from tests.test_yolo_pruned import pickled_globals, shapes
from utils.errors import InputError

OTHER_SIDE = 96  # pixels: three cells of the grid of 32, so that a map that needs more would not fit


@pytest.fixture(scope="module")
def nano() -> DetectionModel:
    return thin("yolov5n")


def kept_levels(model: DetectionModel, removal: Removal) -> list[int]:
    return [level for level in range(model.model[-1].nl) if level not in removal.levels]


@torch.no_grad()
def with_identities(model: DetectionModel, blocks: tuple[str, ...]) -> DetectionModel:
    """A copy of a network in which the branches of these blocks add nothing."""
    changed = deepcopy(model)
    for path in blocks:
        changed.get_submodule(path).forward = lambda x: x
    return changed


def assert_equal_to_the_silenced(model: DetectionModel, removal: Removal, reduced: DetectionModel) -> None:
    """The levels that are left give exactly what they gave, and the YAML rebuilds the network."""
    images = random_images(model)
    with torch.no_grad():
        expected = with_identities(model, removal.blocks)(images)[1]
        found = reduced(images)[1]
    assert len(found) == len(kept_levels(model, removal))
    for ours, level in zip(found, kept_levels(model, removal), strict=True):
        assert torch.equal(ours, expected[level])
    rebuilt = DetectionModel(reduced.yaml)
    assert shapes(rebuilt) == shapes(reduced) and rebuilt.save == reduced.save
    assert [layer.f for layer in rebuilt.model] == [layer.f for layer in reduced.model]


@pytest.mark.slow
@pytest.mark.parametrize("config", [*ARCHITECTURES, "own"])
def test_what_is_left_computes_the_same(config):
    full = with_random_norms(DetectionModel(OWN_CONFIG)) if config == "own" else thin(config)
    removal = Removal((full.model[-1].nl - 1,), tuple(find_blocks(full)[::2]))
    assert_equal_to_the_silenced(full, removal, remove_units(full, removal))


def test_the_coarsest_level_goes_with_what_only_it_reads(nano):
    removal = Removal((2,))
    reduced = remove_units(nano, removal)
    assert_equal_to_the_silenced(nano, removal, reduced)
    assert len(reduced.model) == len(nano.model) - 3  # the convolution down to it, a concatenation, a C3
    assert reduced.yaml["head"][-1] == [[17, 20], 1, "Detect", ["nc", "anchors"]]
    assert reduced.yaml["anchors"] == nano.yaml["anchors"][:2] and reduced.yaml["depth_multiple"] == 0.33
    assert reduced.model[-1].nl == 2 and reduced.stride.tolist() == [8, 16]
    assert remove_units(reduced, Removal((0,))).stride.tolist() == [16]  # again


def test_blocks_shorten_rows(nano):
    assert find_blocks(nano) == [
        "model.2.m.0", "model.4.m.0", "model.4.m.1", "model.6.m.0", "model.6.m.1", "model.6.m.2", "model.8.m.0",
    ]  # fmt: skip
    removal = Removal((), ("model.2.m.0", "model.6.m.1"))
    reduced = remove_units(nano, removal)
    assert_equal_to_the_silenced(nano, removal, reduced)
    rows = {index: row[1] for index, row in enumerate(reduced.yaml["backbone"]) if row[2] == "C3"}
    assert rows == {2: 0, 4: 2, 6: 2, 8: 1} and reduced.yaml["depth_multiple"] == 1
    assert len(remove_units(reduced, Removal((), ("model.6.m.1",))).model[6].m) == 1


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_rows_of_blocks_lose_blocks_or_go(repeats):
    config: dict[str, Any] = {
        "nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 3,
        "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, repeats, "Bottleneck", [8]], [-1, 1, "Conv", [8, 3, 2]]],
        "head": [[-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 1], 1, "Concat", [1]],
                 [[-1, -3], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    model = with_random_norms(DetectionModel(config))
    blocks = find_blocks(model)
    assert len(blocks) == repeats
    for count in range(1, repeats + 1):
        removal = Removal((), tuple(blocks[:count]))
        reduced = remove_units(model, removal)
        assert_equal_to_the_silenced(model, removal, reduced)
        assert len(reduced.model) == len(model.model) - (count == repeats)


@pytest.mark.parametrize(
    "name, levels, usable",
    [("yolov5n", (2,), True), ("yolov5n6", (3,), False), ("yolov5n6", (0, 1), True), ("yolov5n", (0, 1, 2), False)],
)
def test_a_level_whose_grid_the_rest_needs_is_not_offered(name, levels, usable):
    """A network with maps of stride 64 inside and levels up to stride 32 would be given images of 32 n pixels."""
    model = thin(name)
    assert (obstacle(model, Removal(levels)) == "") == usable
    if usable:
        image = torch.rand(1, 3, *[OTHER_SIDE if name == "yolov5n" else 192] * 2, dtype=torch.double)
        reduced = remove_units(model, Removal(levels))
        assert torch.isfinite(reduced(image)[0]).all()
        assert torch.isfinite(reduced(image, augment=True)[0]).all()


@pytest.mark.slow
def test_channels_before_and_after(nano):
    """Widths of an earlier pruning move with their rows, and what is left can be pruned by channels again."""
    groups = Structure.of(nano).select("all").groups
    narrow = deepcopy(nano)
    prune_model(narrow, groups, random_plan(groups))
    removal = Removal((2,), ("model.4.m.0", "model.6.m.2"))
    reduced = remove_units(narrow, removal)
    assert_equal_to_the_silenced(narrow, removal, reduced)
    assert "channels" in reduced.yaml
    again = Structure.of(reduced).select("all")
    plan, narrowest = random_plan(again.groups, seed=1), deepcopy(reduced)
    prune_model(narrowest, again.groups, plan)
    masked = mask_model(reduced, again.groups, plan)
    assert largest_difference(narrowest, masked, random_images(reduced))[1] < 1e-9
    assert shapes(DetectionModel(narrowest.yaml)) == shapes(narrowest)


def test_silencing_leaves_the_source_and_the_paths_alone(nano):
    before = shapes(nano)
    removal = Removal((2,), ("model.4.m.0",))
    silenced = silence(nano, removal)
    assert isinstance(silenced.model[4].m[0], nn.Identity) and shapes(nano) == before
    assert nano.model[-1].nl == 3 and len(silenced.model) == len(nano.model)
    reduced = remove_units(nano, removal)
    assert largest_difference(reduced, silenced, random_images(nano)) == (0.0, 0.0)


def test_files(nano, tmp_path):
    """Stock classes and names only; opened by what opens any checkpoint."""
    reduced = remove_units(nano, Removal((2,), ("model.2.m.0", "model.6.m.1"))).float()
    path = tmp_path / "reduced.pt"
    save_model(reduced, path, {})
    full = tmp_path / "full.pt"
    save_model(deepcopy(nano).float(), full, {})
    assert pickled_globals(path) <= pickled_globals(full)
    loaded, _ = load_model(path)
    assert shapes(loaded) == shapes(reduced) and loaded.yaml["head"] == reduced.yaml["head"]
    for layer, index in zip(load_checkpoint(path)["model"].model, range(99), strict=False):
        assert layer.i == index and layer.type.startswith(("models.", "torch.nn"))
    backend = DetectMultiBackend(path)
    assert backend.stride == 32  # the floor of v6.2: maps of that stride are still inside
    assert backend(torch.rand(1, 3, OTHER_SIDE, OTHER_SIDE))[0].shape[1] == 3 * (12**2 + 6**2)


def test_a_teacher_with_more_levels_is_matched_by_stride(nano):
    assert matching_levels(nano, remove_units(nano, Removal((0,))), "teacher.pt") == [1, 2]
    assert matching_levels(nano, nano, "teacher.pt") == [0, 1, 2]
    with pytest.raises(InputError, match=r"strides \[8, 16\], the model to train \[8, 16, 32\]"):
        matching_levels(remove_units(nano, Removal((2,))), nano, "student.pt")
