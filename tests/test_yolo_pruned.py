"""Surgery and files: a pruned model computes what the masked full-width model computes."""

from __future__ import annotations

import pickletools
import re
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.backends import DetectMultiBackend
from models.loading import attempt_load, load_checkpoint
from models.yolo import DetectionModel
from prune_tools.channels.groups import find_groups, select_groups
from prune_tools.planning.plan import Plan
from prune_tools.pruned_common import narrow_module
from prune_tools.report.report import layer_table
from prune_tools.yolo_pruned import (
    check_surgery,
    largest_difference,
    mask_model,
    prune_model,
    save_model,
    save_pruned,
)
from tests.pruning_networks import ARCHITECTURES, OWN_CONFIG, random_images, random_plan, thin, with_random_norms
from utils.errors import InputError


def shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(value.shape)) for name, value in model.state_dict().items()]


@pytest.fixture(scope="module")
def nano() -> DetectionModel:
    return thin("yolov5n")


@pytest.mark.slow
@pytest.mark.parametrize("config", [*ARCHITECTURES, "own"])
def test_pruned_equals_masked(config, tmp_path):
    full = with_random_norms(DetectionModel(OWN_CONFIG)) if config == "own" else thin(config)
    images = random_images(full)
    found = find_groups(full)
    for scope in ("seed", "all"):
        groups = select_groups(found, scope)
        plan = random_plan(groups)
        pruned, masked = deepcopy(full), mask_model(full, groups, plan)
        prune_model(pruned, groups, plan)
        assert largest_difference(pruned, masked, images)[1] < 1e-9
        assert sum(value.numel() for value in pruned.parameters()) < sum(value.numel() for value in full.parameters())
        assert shapes(DetectionModel(pruned.yaml)) == shapes(pruned)
    save_model(pruned, tmp_path / "pruned.pt", {})
    loaded = DetectMultiBackend(tmp_path / "pruned.pt")  # what val.py and detect.py run
    found, expected = loaded(images.float())[0], pruned(images)[0]
    assert found.shape == expected.shape and torch.allclose(found.double(), expected, rtol=0.1, atol=5.0)  # FP16


@pytest.mark.slow
def test_one_channel_in_every_layer_twice_over(nano):
    groups = select_groups(find_groups(nano), "all")
    pruned = deepcopy(nano)
    prune_model(pruned, groups, Plan({group.name: np.array([group.size // 2]) for group in groups}))
    widths = {module.num_features for module in pruned.modules() if isinstance(module, nn.BatchNorm2d)}
    assert widths == {1}
    again = select_groups(find_groups(pruned), "all")
    assert [group.name for group in again] == [group.name for group in groups]
    assert "1    " in layer_table(nano, pruned)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov5n", "yolov5s-ghost", "yolov3-tiny"])
def test_a_pruned_model_can_be_pruned_again(name):
    first = thin(name)
    for seed in (1, 2):
        groups = select_groups(find_groups(first), "all")
        plan, second = random_plan(groups, seed), deepcopy(first)
        prune_model(second, groups, plan)
        assert largest_difference(second, mask_model(first, groups, plan), random_images(first))[1] < 1e-9
        assert shapes(DetectionModel(second.yaml)) == shapes(second)
        first = second


@pytest.mark.slow
def test_pruned_yaml_takes_another_class_count(nano):
    groups = select_groups(find_groups(nano))
    pruned = deepcopy(nano)
    prune_model(pruned, groups, random_plan(groups))
    other = DetectionModel(pruned.yaml, nc=7)
    assert [head.out_channels for head in other.model[-1].m] == [3 * 12] * 3
    assert [head.in_channels for head in other.model[-1].m] == [head.in_channels for head in pruned.model[-1].m]


@pytest.mark.slow
def test_surgery_leaves_the_source_alone(nano):
    before, description = {name: value.clone() for name, value in nano.state_dict().items()}, deepcopy(nano.yaml)
    groups = select_groups(find_groups(nano))
    plan = random_plan(groups)
    mask_model(nano, groups, plan)
    prune_model(deepcopy(nano), groups, plan)
    assert nano.yaml == description
    assert all(torch.equal(value, before[name]) for name, value in nano.state_dict().items())


@pytest.mark.slow
def test_wrong_surgery_is_noticed(nano):
    groups = select_groups(find_groups(nano))
    plan, pruned = random_plan(groups), deepcopy(nano)
    prune_model(pruned, groups, plan)
    masked = mask_model(nano, groups, plan)
    assert check_surgery(pruned, masked, random_images(nano))[1] < 1e-9
    head = pruned.model[-1].m[0]
    head.weight.data = head.weight.data.flip(1)  # as if its input columns were taken in the wrong order
    with pytest.raises(RuntimeError, match="nothing was saved"):
        check_surgery(pruned, masked, random_images(nano))


def test_values_that_are_no_numbers_are_an_input_error(nano):
    broken = deepcopy(nano)
    broken.model[0].conv.weight.data[0] = float("inf")
    with pytest.raises(InputError, match="not finite"):
        check_surgery(broken, broken, random_images(nano))


@pytest.mark.parametrize("transposed", [False, True])
def test_narrowed_convolution_computes_the_kept_channels(transposed):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    module = kind(5, 4, 3, padding=1).double()
    image, inputs, outputs = torch.rand(1, 5, 6, 6, dtype=torch.double), np.array([0, 3]), np.array([1, 2])
    blanked = torch.zeros_like(image)
    blanked[:, inputs] = image[:, inputs]
    expected = module(blanked)[:, outputs]
    narrow_module(module, inputs, outputs)
    assert (module.in_channels, module.out_channels) == (2, 2)
    assert torch.allclose(module(image[:, inputs]), expected)


def test_narrowed_depthwise_and_linear():
    depthwise, linear, kept = nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 3), np.array([1, 3])
    image, row = torch.rand(1, 4, 5, 5), torch.tensor([[0.0, 1.0, 0.0, 2.0]])
    expected, expected_row = depthwise(image)[:, kept], linear(row)[:, [0, 2]]
    narrow_module(depthwise, kept, kept)
    narrow_module(linear, kept, np.array([0, 2]))
    assert depthwise.groups == 2
    assert torch.allclose(depthwise(image[:, kept]), expected)
    assert torch.allclose(linear(row[:, kept]), expected_row)


def test_what_cannot_be_narrowed():
    with pytest.raises(InputError, match="in 2 groups"):
        narrow_module(nn.Conv2d(4, 4, 1, groups=2), np.array([0]))
    with pytest.raises(InputError, match="cannot narrow a Softmax"):
        narrow_module(nn.Softmax(1), np.array([0]))
    with pytest.raises(InputError, match="one set of channels"):
        narrow_module(nn.BatchNorm2d(3), np.array([0]), np.array([1]))


def pickled_globals(path: Path) -> set[str]:
    """The classes and functions that a checkpoint names, as 'module.name'."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    found, strings = set(), []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL":
            found.add(argument.replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return found


@pytest.mark.slow
def test_saved_files(tmp_path):
    full = thin("yolov5n").float()
    full.names = ["disc", "square"]
    full.model[-1].anchors *= 1.1  # as after auto-anchor
    groups = select_groups(find_groups(full))
    plan, pruned = random_plan(groups), deepcopy(full)
    prune_model(pruned, groups, plan)
    save_pruned(tmp_path, pruned, mask_model(full, groups, plan), {"opt": {"imgsz": 320}})

    checkpoint = load_checkpoint(tmp_path / "pruned_model.pt")
    assert checkpoint["epoch"] == -1 and checkpoint["ema"] is None and checkpoint["optimizer"] is None
    assert checkpoint["opt"] == {"imgsz": 320}
    assert next(checkpoint["model"].parameters()).dtype == torch.float16
    ours = r"models\.(yolo\.Detect(ionModel)?|common\.\w+)"
    allowed = rf"(torch|numpy|collections|_codecs)\b.*|(__builtin__|builtins)\.set|{ours}"
    assert all(re.fullmatch(allowed, name) for name in pickled_globals(tmp_path / "pruned_model.pt"))

    images = random_images(full).float()
    for file, network in (("pruned_model.pt", pruned), ("orign_model.pt", mask_model(full, groups, plan))):
        loaded = attempt_load(str(tmp_path / file), device=torch.device("cpu"), fuse=False)
        assert shapes(loaded) == shapes(network)
        assert largest_difference(loaded, network, images)[1] < 0.02  # fp16 rounding
        assert list(loaded.names) == ["disc", "square"]
    attempt_load(str(tmp_path / "pruned_model.pt"), device=torch.device("cpu"), fuse=True)(images)

    rebuilt = DetectionModel(tmp_path / "pruned_model.yaml")
    assert shapes(rebuilt) == shapes(pruned)
    rebuilt.load_state_dict(pruned.state_dict())
    fresh = DetectionModel(tmp_path / "pruned_model.yaml")
    assert torch.allclose(fresh.model[-1].anchors, full.model[-1].anchors, rtol=1e-3)
    assert largest_difference(rebuilt.eval(), pruned, images)[0] == 0
