"""Parameters, GFLOPs and the info line, against figures that YOLOv5 v6.2 prints."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from models.yolo import DetectionModel
from utils.log import LOGGER
from utils.model_info import count_parameters, gflops, info_line, log_info, module_gflops

# (configuration, modules, parameters, GFLOPs at 640 pixels), as built and with norms folded
MEASURED = [
    ("yolov5n", (270, 1872157, 4.6), (213, 1867405, 4.5)),
    ("yolov5s", (270, 7235389, 16.6), (213, 7225885, 16.4)),
    ("yolov5n6", (355, 3246940, 4.7), (280, 3239884, 4.6)),
    ("yolov5-p34", (241, 5331518, 15.1), (190, 5323806, 14.9)),
    ("yolov5s-ghost", (453, 3897605, 8.9), (366, 3888789, 8.7)),
    ("yolov5s-transformer", (271, 7235645, 16.4), (216, 7226653, 16.2)),
    ("yolov3-tiny", (59, 8852366, 13.3), (48, 8849182, 13.2)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "built", "fused"), MEASURED, ids=[row[0] for row in MEASURED])
def test_measured_lines(name, built, fused):
    model = DetectionModel(f"{name}.yaml")
    title = name.replace("yolov5", "YOLOv5")
    for figures in (built, fused):
        modules, parameters, operations = figures
        line = (
            f"{title} summary: {modules} layers, {parameters} parameters, {parameters} gradients, {operations} GFLOPs"
        )
        assert info_line(model) == line
        assert count_parameters(model) == parameters
        model.fuse()


def test_operations_of_known_layers():
    image = torch.zeros(1, 4, 8, 6)
    assert module_gflops(nn.Conv2d(4, 6, 3, padding=1, groups=2), image) == pytest.approx(2e-9 * 6 * 48 * 2 * 9)
    assert module_gflops(nn.BatchNorm2d(4), image) == pytest.approx(2e-9 * 4 * 4 * 48)
    assert module_gflops(nn.Upsample(scale_factor=2), image) == pytest.approx(2e-9 * 4 * 48 * 4)
    assert module_gflops(nn.Linear(6, 5), image) == pytest.approx(2e-9 * 4 * 8 * 5 * 6)
    assert module_gflops(nn.Sequential(nn.SiLU(), nn.MaxPool2d(2)), image) == 0


def test_counting_leaves_the_model_as_it_was():
    model = DetectionModel("yolov5n.yaml").train()
    model.model[3].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert gflops(model) == pytest.approx(4.56, abs=0.05)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_operations_grow_with_the_area():
    model = DetectionModel("yolov5n.yaml")
    assert gflops(model, 320) == pytest.approx(gflops(model, 640) / 4)
    assert gflops(model, (320, 640)) == pytest.approx(gflops(model, 640) / 2)


class Refusing(nn.Module):
    """A module that cannot be called with an image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.linear(first) + second


def test_a_model_that_cannot_be_followed_has_no_gflops():
    assert gflops(Refusing()) is None
    assert info_line(Refusing()) == "Model summary: 2 layers, 12 parameters, 12 gradients"
    assert gflops(nn.Identity()) is None


def test_verbose_lists_every_parameter(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.INFO, LOGGER.name):
        log_info(nn.Conv2d(3, 2, 1), verbose=True)
    assert [message.split()[1] for message in caplog.messages[:3]] == ["name", "weight", "bias"]
    assert caplog.messages[1].split()[3:8] == ["6", "[2,", "3,", "1,", "1]"]
    assert caplog.messages[-1].startswith("Model summary: 1 layers, 8 parameters")


def test_a_title_cannot_forge_a_line():
    model = Refusing()
    vars(model)["yaml_file"] = "a\n\x1b[2Jb.yaml"
    assert info_line(model).startswith("a\\n\\x1b[2Jb summary: ")


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n_mask", "yolov3-tiny"])
def test_another_counter_finds_the_same(name):
    thop = pytest.importorskip("thop", reason="thop is in requirements-dev.txt")
    model = DetectionModel(f"{name}.yaml").eval()
    image = torch.zeros(1, 3, 64, 64)
    multiply_adds, _ = thop.profile(copy.deepcopy(model), inputs=(image,), verbose=False)
    assert module_gflops(model, image) == pytest.approx(2 * multiply_adds / 1e9, rel=1e-9)
