"""Activations and modules as data: what their texts may say, and what becomes of it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from models.activations import ACTIVATIONS, module_text, parse_activation
from models.common import Conv
from models.yolo import DetectionModel
from tests.conftest import TINY_MODEL
from utils.errors import InputError


def network(**changes: Any) -> DetectionModel:
    """The small detector of the tests with further keys."""
    return DetectionModel(deepcopy({**TINY_MODEL, **changes}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nn.LeakyReLU(0.1)", nn.LeakyReLU(0.1)),
        ("torch.nn.LeakyReLU(negative_slope=0.1, inplace=True)", nn.LeakyReLU(0.1, inplace=True)),
        ("nn.ReLU6", nn.ReLU6()),
        ("Hardswish()", nn.Hardswish()),
        (" nn.Hardtanh(-2, 2.5) ", nn.Hardtanh(-2, 2.5)),
        ("nn.GELU(approximate='tanh')", nn.GELU("tanh")),
    ],
)
def test_texts_of_activations(text: str, expected: nn.Module) -> None:
    module = parse_activation(text)
    assert repr(module) == repr(expected)
    again = parse_activation(module_text(module))  # the text does not say inplace, which changes no output
    assert type(again) is type(module) and module_text(again) == module_text(module)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_has_a_text(name: str) -> None:
    module = parse_activation(f"nn.{name}()")
    assert module_text(module) == f"nn.{name}()" and module(torch.ones(1, 2, 3, 3)).shape == (1, 2, 3, 3)


@pytest.mark.parametrize(
    "text",
    [
        "nn.Linear(3, 3)", "nn.Softmax()", "exit()", "nn.ReLU(", "nn.LeakyReLU(print(1))", "nn.LeakyReLU(slope=1)",
        "nn.LeakyReLU(1, 2, 3)", "nn.LeakyReLU('x')", "nn.LeakyReLU(1e999)", "nn.PReLU(10**9)", "nn.PReLU(1000000)",
        "nn.ReLU().__class__", "__import__('os').system('true')", "nn.SiLU" + " " * 300 + "()", 3, ["nn.ReLU()"],
        "nn.Identity(7)", "nn.PReLU(-1)", "nn.ReLU(True)(1)",
    ],
)  # fmt: skip
def test_other_activations_are_refused_in_one_line(text: Any) -> None:
    with pytest.raises(InputError, match="activation") as caught:
        network(activation=text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_key_means_the_default(empty: Any) -> None:
    assert type(network(activation=empty).model[0].act) is nn.SiLU


def test_blocks_take_the_activation_and_keep_what_they_ask_for() -> None:
    rows = [
        [-1, 1, "Conv", [16, 3, 8]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "GhostBottleneck", [16, 3, 1]],
        [-1, 1, "BottleneckCSP", [16]], [-1, 1, "Conv", [32, 3, 2, None, 1, False]],
    ]  # fmt: skip
    head = [[[0, 1, 4], 1, "Detect", ["nc", "anchors"]]]
    model = network(backbone=rows, head=head, activation="nn.LeakyReLU(0.1)")
    assert type(model.model[2].conv[0].cv1.act) is nn.LeakyReLU
    assert type(model.model[2].conv[2].cv1.act) is nn.Identity  # linear, as in the paper
    assert type(model.model[3].cv1.act) is nn.LeakyReLU
    assert type(model.model[3].act) is nn.SiLU  # not of a convolution block: as in v7.0
    assert type(model.model[4].act) is nn.Identity
    assert model.model[0].act.inplace and model.model[0].act is not model.model[1].act
    assert type(network().model[0].act) is nn.SiLU  # the next network has the default again


def test_an_activation_with_parameters_is_one_for_all() -> None:
    model = network(activation="nn.PReLU()")
    blocks = [module for module in model.modules() if isinstance(module, Conv)]
    assert len({id(block.act) for block in blocks}) == 1
    assert sum(parameter.numel() for parameter in model.parameters()) == 1 + sum(
        parameter.numel() for parameter in network().parameters()
    )


def test_settings_of_modules() -> None:
    model = network(modules={
        "model.0.conv": {"dilation": [2, 2], "padding": [2, 2], "bias": True},
        "model.0.bn": {"momentum": None, "weight": False, "bias": False, "affine": False},
        "model.1.conv": {"kernel_size": [5, 5], "padding": 2, "padding_mode": "reflect"},
        "model.1.act": "nn.ReLU()",
        "model.4.m": {"kernel_size": 7, "padding": 3},
        "model.5.m.0": {"bias": False},
    })  # fmt: skip
    first, second = model.model[0], model.model[1]
    assert (first.conv.dilation, first.conv.padding, first.conv.bias.shape) == ((2, 2), (2, 2), (8,))
    assert (first.bn.eps, first.bn.momentum, first.bn.weight) == (1e-3, None, None)
    assert second.conv.weight.shape == (8, 8, 5, 5) and second.conv._reversed_padding_repeated_twice == (2, 2, 2, 2)
    assert type(second.act) is nn.ReLU and model.model[4].m.kernel_size == 7
    assert model.model[-1].m[0].bias is None and model.model[-1].m[1].bias is not None
    assert model.stride.tolist() == [8, 16, 32]


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (3, "must map module paths"),
        ({"model.77": {}}, "model.77 is not a module"),
        ({"": {}}, "not a module"),
        ({3: {}}, "3 is not a module"),
        ({"model.0.bn": {"colour": 1}}, "has no setting colour"),
        ({"model.0.bn": {"eps": "small"}}, "eps cannot be 'small'"),
        ({"model.0.bn": {"eps": float("nan")}}, "eps cannot be nan"),
        ({"model.0.conv": {"kernel_size": [10**9, 1]}}, "kernel_size cannot be"),
        ({"model.0.conv": {"kernel_size": [4000, 4000]}}, "kernel_size cannot be"),
        ({"model.0.conv": {"kernel_size": [3.5, 3]}}, "kernel_size cannot be"),
        ({"model.0.conv": {"groups": 3}}, "groups cannot be 3"),
        ({"model.0.conv": {"groups": 0}}, "groups cannot be 0"),
        ({"model.0.conv": {"stride": [0, 0]}}, "do not fit together"),
        ({"model.0.conv": {"padding_mode": "made up"}}, "do not fit together"),
        ({"model.0.conv": {"padding": "made up"}}, "do not fit together"),
        ({"model.4.m": {"return_indices": True}}, "do not fit together"),
        ({"model.0.act": "nn.Linear(1, 1)"}, "model.0.act must be one of"),
        ({"model.0.act": 7}, "model.0.act must be one of"),
        ({"model.5": "nn.Identity()"}, "must be Detect"),
    ],
)
def test_impossible_modules_are_named(modules: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        network(modules=modules)
    assert "\n" not in str(caught.value)


def test_fusing_leaves_norms_that_cannot_be_folded() -> None:
    torch.manual_seed(0)
    model = network(modules={
        "model.0.bn": {"weight": False, "bias": False, "affine": False},
        "model.1.bn": {"running_mean": False, "running_var": False, "track_running_stats": False},
        "model.3.bn": "nn.Identity()",
    }).eval()  # fmt: skip
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)[0]
        found = model.fuse()(images)[0]
    assert hasattr(model.model[1], "bn") and hasattr(model.model[3], "bn") and not hasattr(model.model[0], "bn")
    torch.testing.assert_close(found, expected)
