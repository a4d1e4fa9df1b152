"""Head levels and residual blocks as units of pruning: surgery on rows, files, and what reads them."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.backends import DetectMultiBackend
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools import finetune, prune
from prune_tools.channels.structure import Structure
from prune_tools.opening import load_model
from prune_tools.options import PruneOptions
from prune_tools.planning.goals import parse_target
from prune_tools.tuning.distillation import matching_levels
from prune_tools.units import choice
from prune_tools.units.level_use import LevelUse
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
from utils.checkpoint import save_checkpoint
from utils.commands.options import build
from utils.dataset.label_cache import LabelTable
from utils.errors import InputError
from utils.model_info import count_parameters

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


# -- choice ------------------------------------------------------------------------------------------------------------


def table_of(*sides: tuple[float, float]) -> LabelTable:
    """Labels of one image of 640 x 320 pixels; sides of the objects in pixels of a 320 x 160 one."""
    rows = np.array([[0, 0.5, 0.5, width / 320, height / 160] for width, height in sides], dtype=np.float32)
    labels: Any = [rows.reshape(-1, 5)]
    empty: Any = []
    return LabelTable(empty, np.array([[640, 320]]), labels, empty, {}, [])


def test_objects_belong_to_levels_by_their_sides(nano):
    """Anchors of YOLOv5: 10,13 ... 33,23; 30,61 ... 59,119; 116,90 ... 373,326; a factor of 4 is allowed."""
    use = LevelUse.of(nano, table_of((5, 5), (12, 16), (40, 40), (150, 80), (300, 159), (3, 150)), 320, 4.0)
    assert use.assigned.tolist() == [
        [True, False, False], [True, True, False], [True, True, True], [False, True, True], [False, False, True],
        [False, False, False],
    ]  # fmt: skip
    assert use.lost([2]) == pytest.approx(1 / 6) and use.lost([0]) == pytest.approx(1 / 6)
    assert use.lost([1, 2]) == pytest.approx(2 / 6) and use.lost([1]) == 0
    assert "6 training objects" in use.sizes() and "at 320 pixels" in use.sizes()
    assert use.shares([8, 16, 32]).startswith("stride 8 50.0% (16.7% alone), stride 16 50.0% (0.0% alone)")
    nothing = LevelUse.of(nano, table_of(), 320, 4.0)
    assert nothing.lost([0]) == 0 and "no objects" in nothing.sizes()


class FakeJudge:
    """Knows the accuracy of a network by its strides."""

    def __init__(self, allowed: float, accuracies: dict[tuple[int, ...], float]) -> None:
        self.accuracies = accuracies
        self.inputs: Any = SimpleNamespace(options=SimpleNamespace(allow_level_loss=allowed))

    def __call__(self, model: DetectionModel) -> choice.Judgement:
        return choice.Judgement(map=self.accuracies[tuple(map(int, model.stride))], loss=1.0)


@pytest.mark.parametrize(
    "objects, allowed, accuracy, skip, left, reason",
    [
        ([[1, 0, 0], [0, 1, 0]] * 99 + [[1, 1, 1]], 0.005, 0.5, [], [8, 16], "0.00% of the objects belong to it alone"),
        ([[1, 1, 0]] * 98 + [[0, 0, 1]] * 2, 0.005, 0.5, [], [8, 16, 32], "32 stays: 2.00% of the objects"),
        ([[1, 0, 0], [0, 1, 0]] * 49 + [[0, 0, 1]] * 2, 0.03, 0.5, [], [8, 16], "32 is removed: 2.00% of the objects"),
        ([[1, 1, 0]] * 100, 0.005, 0.49, [], [8, 16, 32], "0.500 with all levels, 0.490 without"),
        ([[1, 1, 0]] * 100, 0.005, 0.5, ["model.22"], [8, 16, 32], "--skip protects model.22"),
        ([[1, 0, 0]] * 100, 0.005, 0.5, [], [8], "16 is removed: 0.00% of the objects belong to the removed levels"),
    ],
)
def test_levels_go_where_the_data_do_without_them(nano, objects, allowed, accuracy, skip, left, reason):
    use = LevelUse(np.full(len(objects), 20.0), np.array(objects, dtype=bool), 320)
    judge: Any = FakeJudge(allowed, {(8, 16, 32): 0.5, (8, 16): accuracy, (8,): accuracy})
    chosen = choice.Chosen(Removal(), nano, None, skip)
    choice._choose_levels(chosen, use, judge, skip)
    assert chosen.model.stride.tolist() == left
    assert reason in "\n".join(chosen.notes)


def test_without_objects_all_levels_stay(nano):
    judge: Any = FakeJudge(1.0, {})
    chosen = choice.Chosen(Removal(), nano, None, [])
    choice._choose_levels(chosen, LevelUse.of(nano, table_of(), 320, 4.0), judge, [])
    assert not chosen.removal and "no objects" in chosen.notes[0]


def test_blocks_go_while_the_network_at_the_budget_gets_better(nano, monkeypatch):
    """Tried in the order of what the loss rises for their cost; two failures in a row end it."""
    blocks = find_blocks(nano)
    rises = dict(zip(blocks, (7, 2, 1, 3, 4, 5, 6), strict=True))
    tried: list[list[str]] = []

    class FakeTrials:
        def __init__(self, *_: Any) -> None:
            pass

        def loss(self, removed: list[str], skip: list[str]) -> float:
            tried.append(list(removed))
            return 5.0 if not removed else 5.0 - len(removed) if set(removed) <= set(blocks[1:3]) else 9.0

        def without(self, removed: tuple[str, ...]) -> DetectionModel:
            return remove_units(nano, Removal((), removed))

    def judge(model: DetectionModel) -> choice.Judgement:
        silent = [path for path in blocks if isinstance(model.get_submodule(path), nn.Identity)]
        return choice.Judgement(0.5, 1.0 + sum(rises[path] for path in silent))

    monkeypatch.setattr(choice, "Trials", FakeTrials)
    monkeypatch.setattr(choice, "cost_of", lambda _, model: float(len(find_blocks(model))))
    chosen = choice.Chosen(Removal(), nano, parse_target("flops", "1G"), [])
    inputs: Any = SimpleNamespace(model=nano)
    choice._choose_blocks(chosen, inputs, judge, [])  # type: ignore[arg-type]
    first, second, third, fourth = blocks[2], blocks[1], blocks[3], blocks[4]
    assert tried == [[], [first], [first, second], [first, second, third], [first, second, fourth]]
    assert chosen.removal == Removal((), (blocks[1], blocks[2])) and len(chosen.notes) == 4
    assert len(find_blocks(chosen.model)) == len(blocks) - 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, wide_cfg) -> Path:
    """A detector of the tiny data set's classes, of strides 8, 16 and 32, whose gammas differ."""
    model = with_random_norms(DetectionModel(wide_cfg)).float()
    model.names = ["disc", "square"]
    path = tmp_path_factory.mktemp("base") / "base.pt"
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None, "opt": {}}, path)
    return path


def pruned(checkpoint: Path, data: Path, folder: Path, **more: Any) -> Path:
    return prune.run(
        weights=str(checkpoint), data=str(data), project=str(folder), cfg="", imgsz=64, batch_size=2, device="cpu",
        reconstruct=8, **more,
    )  # fmt: skip


@pytest.mark.usefixtures("quick_timing")
def test_levels_then_channels_within_one_budget(checkpoint, tiny_dataset, tmp_path):
    """From prune.py to what reads its file: a second pruning, fine-tuning with the whole model as teacher."""
    folder = pruned(
        checkpoint, tiny_dataset, tmp_path, units=["channels", "levels"], target_params="0.5", round_to=1,
        skip=["model.1"],
    )  # fmt: skip
    whole, model = load_model(checkpoint)[0], load_model(folder / "pruned_model.pt")[0]
    assert model.model[-1].nl < 3 and shapes(DetectionModel(folder / "pruned_model.yaml")) == shapes(model)
    assert count_parameters(model) <= 0.5 * count_parameters(whole)
    assert model.model[1].conv.out_channels == whole.model[1].conv.out_channels
    notes = json.loads((folder / "report.json").read_text())["notes"]
    assert "Target met" in notes[0] and "training objects" in notes[1] and "stride 8 " in notes[2]
    assert "stride 32 is removed" in notes[3] and notes[3] in (folder / "report.txt").read_text()
    again = pruned(folder / "pruned_model.pt", tiny_dataset, tmp_path, percent=0.3)
    tuned = finetune.run(
        weights=str(again / "pruned_model.pt"), teacher=str(checkpoint), data=str(tiny_dataset), imgsz=64, epochs=1,
        batch_size=4, workers=0, device="cpu", project=str(tmp_path), name="tuned", noplots=True,
    )  # fmt: skip
    assert tuned is not None
    assert load_model(tmp_path / "tuned/weights/best.pt")[0].stride.tolist() == model.stride.tolist()


@pytest.mark.usefixtures("quick_timing")
def test_units_without_channels(checkpoint, tiny_dataset, tmp_path):
    """Blocks are chosen for the budget, which the channels are to reach later."""
    folder = pruned(checkpoint, tiny_dataset, tmp_path, units=["blocks"], target_params="0.6", noval=True)
    whole, model = load_model(checkpoint)[0], load_model(folder / "pruned_model.pt")[0]
    notes = json.loads((folder / "report.json").read_text())["notes"]
    removed = "The block model.2.m.0 is removed" in notes[1]
    assert removed or "The block model.2.m.0 stays" in notes[1]
    assert len(model.model[2].m) == len(whole.model[2].m) - removed
    assert model.model[0].conv.out_channels == whole.model[0].conv.out_channels
    assert "Channels are left whole" in notes[0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"units": ["layers"]}, "--units takes one or more of channels, levels, blocks, got 'layers'"),
        ({"units": []}, "got none"),
        ({"units": ["channels", "blocks"]}, "give --target-flops or --target-params"),
        ({"units": ["blocks"], "target_latency": "0.5"}, "give --target-flops or --target-params"),
        ({"units": ["levels"], "percent": 0.3}, "add them to --units"),
        ({"allow_level_loss": 0.1}, "--allow-level-loss 0.1 only acts with --units levels"),
        ({"units": ["levels"], "allow_level_loss": 2.0}, "--allow-level-loss"),
    ],
)
def test_units_that_cannot_be_chosen(change, message):
    with pytest.raises(InputError, match=message):
        build(PruneOptions, **change)


def test_a_target_above_the_whole_model_is_refused(checkpoint, tiny_dataset, tmp_path):
    with pytest.raises(InputError, match="no less than what the model has already"):
        pruned(checkpoint, tiny_dataset, tmp_path, units=["channels", "levels"], target_params="1G")
