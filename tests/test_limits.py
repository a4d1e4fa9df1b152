"""Configurations that no machine should build end in one line before they cost memory or time."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from models import limits
from models.limits import MOST_MODULES, MOST_PARAMETERS, Work, build_within_limits, is_common, limited_size
from models.parser import resolve_word
from models.yolo import DetectionModel
from utils.errors import InputError
from utils.storage.files import ROOT, read_yaml

BASE = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[8, 8, 16, 16], [32, 32, 64, 64]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[1, 2], 1, "Detect", ["nc", "anchors"]]],
}


def error_of(**entries: object) -> str:
    with pytest.raises(InputError) as caught:
        DetectionModel({**copy.deepcopy(BASE), **entries})
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def row(module: str, *arguments: object, number: int = 1) -> dict[str, list]:
    return {"backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, number, module, list(arguments)]]}


@pytest.mark.parametrize("value", [1e9, 101, float("inf"), float("nan"), -1, 0, 10**400, True, "1", None, [1]])
@pytest.mark.parametrize("key", ["depth_multiple", "width_multiple", "nc", "ch"])
def test_values_of_the_whole_network(key, value):
    if value in (101, True) and key in ("nc", "ch"):
        value = 10**9
    assert f"{key} must be a" in error_of(**{key: value})


@pytest.mark.parametrize("anchors", [
    10**9, 0, True, "3", None, {}, [[float("nan"), 1]], [[1, float("inf")]], [[-1, 1]], [[True, True]], [["a", "b"]],
    [[1, 2]] * 101, [[1] * 202], [[10**30, 1]],
], ids=repr)  # fmt: skip
def test_anchors(anchors):
    assert "anchors must be a count per level" in error_of(anchors=anchors)


@pytest.mark.slow
@pytest.mark.parametrize(("entries", "expected"), [
    (row("Conv", 10**6, 9), "million parameters"), (row("Conv", 10**9), "million parameters"),
    (row("Conv", 8, 10**4), "million parameters"), (row("nn.Linear", 10**6, 10**6), "million parameters"),
    (row("C3", 8, False, 1, 1e5), "million parameters"), (row("nn.Embedding", 10**9, 10**3), "million parameters"),
    (row("Conv", 10**30), "layer 1"), (row("Conv", float("inf")), "layer 1"), (row("Conv", -8), "makes -8 channels"),
    (row("Conv", 0), "makes 0 channels"), (row("Conv", float("nan")), "layer 1"),
    (row("nn.LSTM", 10, 10, 10**9), "modules"), (row("nn.Transformer", 8, 2, 10**9), "takes sequences"),
    (row("C3", 16, number=10**9), "number must be a whole number of at least 0 and at most 500"),
    (row("nn.Identity", number=501), "at most 500"),
    (row("MixConv2d", 64, [1] * 5000), "more than 200 arguments"),
    (row("nn.Upsample", None, 500, "nearest"), "layer 1 .* values of an image"),
    (row("nn.Upsample", 10**5), "layer 1 .* values of an image"),
    (row("nn.ZeroPad2d", 10**5), "layer 1 .* values of an image"),
    (row("nn.ConvTranspose2d", 8, 3, 100, 1), "layer 1 .* values of an image"),
    (row("nn.MultiheadAttention", 128, 1), "layer 1"),
    ({"head": [[-1, 1, "Conv", [16]], [[1, 2], 1, "Detect", [0, "anchors"]]]}, "layer 3 .* classes above 0, got 0"),
    ({"head": [[-1, 1, "Conv", [16]], [[1, 2], 1, "Detect", [0.5, "anchors"]]]}, "layer 3 .* classes above 0, got 0.5"),
    ({"backbone": [[-1, 1, "Concat", [1]], [-1, 1, "nn.ConvTranspose2d", [5000, 4, 2]]]}, "values of an image"),
    ({"head": [[[0, 1], 1, "Detect", ["nc", 10**8]]]}, "layer 2 .* at most 100 anchors"),
    (row("Conv", 8, 443), "billion multiplications"), (row("SPPF", 8, 10**8), "billion multiplications"),
    (row("SPPF", 512, 99), "billion multiplications"),
    ({"backbone": [[-1, 1, "Conv", [10_000, 1]], [-1, 1, "Conv", [8]]]}, "layer 0 .* values of an image"),
    ({"backbone": [[-1, 1, "Conv", [512, 3]], *[[-1, 1, "Conv", [512, 3]]] * 4]}, "billion multiplications"),
    ({"backbone": [[-1, 1, "C3TR", [64]], [-1, 1, "Conv", [8]]]}, "layer 0 .* values of an image"),
    ({"backbone": [[-1, 1, "nn.Identity", []]] * 1001}, "at most 1000"),
    ({"backbone": [[[-1] * 2000, 1, "Concat", [1]]]}, "reads from"),
    ({"channels": {"model.0.conv": [3, 10**9]}}, "million parameters"),
])  # fmt: skip
def test_what_is_too_large_is_refused_by_its_row(entries, expected):
    assert re.search(expected, error_of(**entries)), error_of(**entries)


@pytest.mark.parametrize("kind", ["nn.LazyConv2d", "nn.LazyLinear", "nn.LazyBatchNorm2d"])
def test_lazy_modules_are_refused_by_name(kind):
    assert f"{kind} has no size before its first pass" in error_of(**row(kind, 8))


@pytest.mark.parametrize(("entries", "layer"), [
    (row("nn.Flatten"), 2), (row("nn.LSTM", 4, 4), 1), (row("nn.Linear", 5, 5), 1), (row("nn.Module"), 1),
    (row("nn.Softmax", 9), 1), (row("nn.Bilinear", 2, 2, 2), 1), (row("nn.Unflatten", 1, [99, 1]), 1),
    (row("nn.ModuleList"), 1), (row("nn.PixelShuffle", 7), 1), (row("nn.MaxPool2d", 9, 1, 7), 1),
])  # fmt: skip
def test_layers_that_do_not_fit_are_named(entries, layer):
    message = error_of(**entries)
    assert f"layer {layer} " in message


@pytest.mark.parametrize(
    "arguments", [["a"], [[]], [None], [{}], ["nn.ReLU"], [3, "x"], [8, None], [8, 3, 0], [8, 3, -2]]
)
def test_arguments_of_a_wrong_kind_are_told_with_the_row(arguments):
    assert "layer " in error_of(**row("Conv", *arguments))


def test_too_many_strides_leave_nothing():
    strides = [[-1, 1, "nn.MaxPool2d", [2, 2]]] * 9
    assert "layer " in error_of(backbone=strides)


@pytest.mark.parametrize("word", [
    "-" * 20_000 + "1", "(" * 5000, "1+" * 50_000 + "1", "9" * 5000, "x" * 10**6, "[" * 9999, "a\0b",
    "nc.real", "'\\d'",
])  # fmt: skip
def test_words_that_are_no_sum_stay_words(word):
    assert resolve_word(word, {"nc": 7}) == word


# -- what is allowed ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_largest_shipped_network_is_far_from_every_limit(monkeypatch):
    config = read_yaml(ROOT / "models/hub/yolov5-p7.yaml")
    monkeypatch.setattr(limits, "MOST_PARAMETERS", MOST_PARAMETERS // 3)
    monkeypatch.setattr(limits, "MOST_MODULES", MOST_MODULES // 3)
    monkeypatch.setattr(limits, "MOST_PRODUCTS", limits.MOST_PRODUCTS // 3)
    monkeypatch.setattr(limits, "MOST_VALUES", limits.MOST_VALUES // 3)
    with torch.device("meta"):
        from models.parser import parse_model

        layers, _ = parse_model(config, [3])
        with limits.watched_pass(layers):
            kept: list = []
            x = torch.empty(1, 3, 256, 256)
            for layer in layers:
                source = layer.f
                x = layer([x if i == -1 else kept[i] for i in source] if isinstance(source, list) else
                          x if source == -1 else kept[source])  # fmt: skip
                kept.append(x)


def test_trying_without_memory_draws_no_random_number():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build_within_limits(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(5, 5), nn.BatchNorm2d(8)), (1, 3, 8, 8))
    assert torch.equal(before, torch.get_rng_state())


def test_the_work_of_the_common_modules_is_known_beforehand(monkeypatch):
    """The predicted number of values is what the module makes."""
    counted: list[int] = []
    monkeypatch.setattr(Work, "add", lambda self, values, products: counted.append(values))
    image = torch.zeros(2, 4, 13, 9)
    for module in (
        nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(4, 6, (3, 1), (1, 2), (0, 2), (2, 1)), nn.Conv2d(4, 8, 5, groups=4),
        nn.Conv2d(4, 4, 3, padding="same"), nn.ConvTranspose2d(4, 2, 3, 2, 1, 1), nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2),
        nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=(2, 3)), nn.Upsample((5, 7)), nn.Upsample(6), nn.SiLU(),
        nn.BatchNorm2d(4), nn.Identity(),
    ):  # fmt: skip
        assert is_common(module)
        counted.clear()
        layers = nn.Sequential(module)
        with limits.watched_pass(layers):
            made = layers(image)
        assert counted == [made.numel()], module


@pytest.mark.slow
def test_hooks_are_taken_back():
    with pytest.raises(InputError), limited_size():
        nn.ModuleList(nn.Identity() for _ in range(MOST_MODULES + 1))
    nn.ModuleList(nn.Identity() for _ in range(MOST_MODULES + 1))
