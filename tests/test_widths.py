"""Widths as data: a narrowed network rebuilds from its configuration alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.common import DWConv
from models.configuration import read_config
from models.widths import apply_widths, head_convolutions, measure_widths, width_of
from models.yolo import DetectionModel
from utils.errors import InputError

# The layer before the first C3, and all that reads it; then the last C3 and the head's largest level
NARROWED = {
    "model.1.conv": [16, 20],
    "model.1.bn": [20],
    "model.2.cv1.conv": [20, 16],
    "model.2.cv2.conv": [20, 16],
    "model.23.cv3.conv": [256, 100],
    "model.23.cv3.bn": [100],
    "model.24.m.2": [100],
}


@pytest.fixture(scope="module")
def plain() -> DetectionModel:
    return DetectionModel("yolov5n.yaml", nc=3)


def narrowed(**changes: object) -> dict:
    return {**read_config("yolov5n.yaml"), "nc": 3, "channels": {**NARROWED, **changes}}


@pytest.mark.slow
def test_a_narrowed_network_builds_and_runs(plain):
    model = DetectionModel(narrowed())
    for path, widths in NARROWED.items():
        assert width_of(model.get_submodule(path))[: len(widths)] == widths
    assert model.stride.tolist() == [8, 16, 32]
    assert model.eval()(torch.rand(1, 3, 64, 64))[0].shape == (1, 252, 8)
    assert sum(layer.np for layer in model.model) == sum(parameter.numel() for parameter in model.parameters())
    assert sum(layer.np for layer in model.model) < sum(layer.np for layer in plain.model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum, int(norm.num_batches_tracked)) for norm in norms} == {(1e-3, 0.03, 1)}


def test_measuring_finds_what_was_applied(plain):
    model = DetectionModel(narrowed())
    measured = measure_widths(model, plain)
    assert measured == NARROWED
    again = DetectionModel({**read_config("yolov5n.yaml"), "nc": 3, "channels": measured})
    shapes = [(name, tensor.shape) for name, tensor in model.state_dict().items()]
    assert [(name, tensor.shape) for name, tensor in again.state_dict().items()] == shapes
    assert measure_widths(plain, plain) == {}


def test_the_number_of_classes_may_change_after_pruning(plain):
    model = DetectionModel(narrowed(), nc=7)
    assert model.eval()(torch.rand(1, 3, 64, 64))[0].shape == (1, 252, 12)
    assert measure_widths(model, plain) == NARROWED
    assert head_convolutions(model) == {"model.24.m.0", "model.24.m.1", "model.24.m.2"}


def test_settings_of_a_module_stay():
    holder = nn.Module()
    holder.deep = nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False)
    holder.doubling = DWConv(8, 16, 3).conv
    holder.up = nn.ConvTranspose2d(8, 6, 4, 2, 1)
    holder.linear = nn.Linear(8, 4).requires_grad_(False)
    holder.norm = nn.BatchNorm2d(8, eps=1e-3, momentum=0.03).double().eval()
    apply_widths(holder, {"deep": [5, 5], "doubling": [5, 10], "up": [5, 3], "linear": [5, 2], "norm": [5]})
    image = torch.rand(1, 5, 8, 8)
    assert (holder.deep.groups, holder.doubling.groups) == (5, 5)
    assert holder.deep.bias is None
    assert holder.deep(image).shape == (1, 5, 4, 4)
    assert holder.doubling(image).shape == (1, 10, 8, 8)
    assert holder.up(image).shape == (1, 3, 16, 16)
    assert holder.linear(torch.rand(2, 5)).shape == (2, 2)
    assert not holder.linear.weight.requires_grad
    assert (holder.norm.eps, holder.norm.momentum, holder.norm.training) == (1e-3, 0.03, False)
    assert torch.equal(holder.norm.running_var, torch.ones(5, dtype=torch.double))


@pytest.mark.parametrize(("path", "widths", "message"), [
    ("model.99.conv", [3, 3], "model.99.conv is not a convolution"),
    ("model.1.act", [3], "model.1.act is not a convolution"),
    ("model.1.conv", [16, 0], "2 positive whole numbers"),
    ("model.1.conv", [16, 8.5], "2 positive whole numbers"),
    ("model.1.conv", [16, 8, 8], "2 positive whole numbers"),
    ("model.1.bn", [], "1 positive whole numbers"),
    ("model.1.bn", 12, "1 positive whole numbers"),
])  # fmt: skip
def test_impossible_widths_are_refused(plain, path, widths, message):
    with pytest.raises(InputError, match=message):
        apply_widths(copy.deepcopy(plain), {path: widths})


def test_groups_that_do_not_divide_are_refused():
    holder = nn.Module()
    holder.grouped = nn.Conv2d(8, 8, 1, groups=4)
    with pytest.raises(InputError, match="grouped: a convolution in 4 groups cannot have 6 input"):
        apply_widths(holder, {"grouped": [6, 8]})


def test_widths_that_do_not_fit_together_are_refused():
    with pytest.raises(InputError, match="do not fit together"):
        DetectionModel(narrowed(**{"model.2.cv2.conv": [19, 16]}))


def test_models_of_different_modules_are_refused(plain):
    with pytest.raises(InputError, match="different modules"):
        measure_widths(copy.deepcopy(plain).fuse(), plain)
