"""Parameter groups, schedules, the moving average and early stopping."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import nn

from benchmarks.material import training_state
from models.configuration import read_config
from models.rare_blocks import Sum
from models.yolo import DetectionModel
from utils.errors import InputError
from utils.training.optim import (
    ModelEMA,
    linear_schedule,
    load_optimizer,
    one_cycle,
    parameter_groups,
    smart_optimizer,
)


def small_network() -> nn.Sequential:
    """Convolution, norm, linear; seeded."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 1))


# -- groups and optimizers ---------------------------------------------------------------------------------------------


def test_groups_of_the_nano_model():
    model = DetectionModel(read_config("yolov5n.yaml") | {"width_multiple": 0.1})
    biases, decayed, norms = parameter_groups(model)
    assert (len(biases), len(decayed), len(norms)) == (60, 60, 57)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert all(names[parameter].endswith(".bias") for parameter in biases)
    assert all(".bn." in names[parameter] for parameter in norms)
    assert [names[parameter] for parameter in decayed[:2]] == ["model.0.conv.weight", "model.1.conv.weight"]
    assert [names[parameter] for parameter in biases[-2:]] == ["model.24.m.1.bias", "model.24.m.2.bias"]


def test_every_parameter_is_in_one_group():
    network = nn.Sequential(nn.Conv2d(8, 8, 1), nn.MultiheadAttention(8, 2), nn.LayerNorm(8), Sum(3, weight=True))
    network.append(network[0])  # shared
    groups = parameter_groups(network)
    found = [parameter for group in groups for parameter in group]
    assert len(found) == len(set(found)) == len(list(network.parameters()))
    biases, decayed, norms = groups
    assert norms == [network[2].weight]
    assert decayed[-1] is network[1].in_proj_weight
    assert all(
        first is second for first, second in zip(biases[-2:], (network[1].in_proj_bias, network[3].w), strict=True)
    )


def trained(name: str, fused: bool, steps: int = 5, restart: bool = False) -> list[torch.Tensor]:
    """Weights after a few steps; with ``restart`` the state goes through an optimizer of the other kind in between."""

    def maker() -> torch.optim.Optimizer:
        optimizer = smart_optimizer(network, name, 0.05, 0.9, 0.01)
        assert optimizer.param_groups[0]["fused"]
        for group in () if fused else optimizer.param_groups:
            group["fused"] = False
        return optimizer

    network = small_network().double()
    optimizer = maker()
    for step in range(steps):
        torch.manual_seed(step)
        network(torch.rand(2, 3, 8, 8, dtype=torch.double)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if restart:
            saved = copy.deepcopy(optimizer.state_dict())
            for group in saved["param_groups"]:
                group["fused"] = not fused
            optimizer = maker()
            load_optimizer(optimizer, saved)
            assert optimizer.param_groups[0]["fused"] == fused
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_optimizers_step_like_the_others(name):
    plain = trained(name, fused=False)
    for other in (trained(name, fused=True), trained(name, fused=True, restart=True), trained(name, False, 5, True)):
        for got, expected in zip(other, plain, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_state_lies_in_memory_as_the_parameters_do(name, tiny_cfg):
    """Fused kernels on GPUs refuse anything else; other programs save their state in another layout."""
    state = training_state(str(tiny_cfg), ["a", "b"], 64, 4, 10)
    optimizer = smart_optimizer(state.model, name, 0.05, 0.9, 0.01) if name != "SGD" else state.optimizer
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    for own in saved["state"].values():
        own.update({key: value.contiguous() for key, value in own.items() if torch.is_tensor(value)})
    load_optimizer(optimizer, saved)
    compared = 0
    for parameter, own in optimizer.state.items():
        for key, value in own.items():
            if value.shape == parameter.shape:
                assert value.stride() == parameter.stride(), key
                compared += parameter.ndim == 4 and not parameter.is_contiguous()
    assert compared


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("Adam", {"betas": (0.9, 0.999)}),
        ("AdamW", {"betas": (0.9, 0.999)}),
        ("RMSProp", {"momentum": 0.9}),
    ],
)
def test_optimizers(name, settings):
    model = small_network()
    optimizer = smart_optimizer(model, name, lr=0.1, momentum=0.9, decay=0.01)
    assert type(optimizer).__name__.lower() == name.lower()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.01, 0.0]
    assert [len(group["params"]) for group in optimizer.param_groups] == [3, 2, 1]
    for group in optimizer.param_groups:
        assert group["lr"] == 0.1
        assert {key: group[key] for key in settings} == settings


def test_one_step_of_sgd_by_hand():
    model = small_network()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = smart_optimizer(model, "SGD", lr=0.1, momentum=0.5, decay=0.2)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        decay = 0.2 if name in ("0.weight", "3.weight") else 0.0
        gradient = 1 + decay * before[name]
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * 1.5 * gradient)


def test_unknown_optimizer():
    with pytest.raises(InputError, match=r"'Lion'.*SGD, Adam, AdamW, RMSProp"):
        smart_optimizer(small_network(), "Lion")


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_schedules():
    factor = linear_schedule(0.01, 10)
    assert [round(0.01 * factor(epoch), 8) for epoch in (0, 1, 2, 3, 8, 9)] == [
        0.01,
        0.00901,
        0.00802,
        0.00703,
        0.00208,
        0.00109,
    ]
    cosine = one_cycle(1, 0.01, 10)
    expected = [1.0, 0.975772975566101, 0.905463412215599, 0.7959536998847743, 0.6579634122155991, 0.5050000000000001]
    assert [cosine(epoch) for epoch in range(6)] == pytest.approx(expected, abs=1e-12)
    assert one_cycle()(0) == 0
    assert one_cycle()(100) == 1


def test_schedules_as_recorded(shared_folder):
    recorded = json.loads((shared_folder / "conformance/v6.2/schedules.json").read_text())
    for key, values in recorded["one_cycle"].items():
        last, epochs = float(key.split(",")[0]), int(key.split(",")[1])
        assert [one_cycle(1, last, epochs)(epoch) for epoch in range(epochs)] == pytest.approx(values, abs=1e-9)
    average = ModelEMA(nn.Linear(1, 1))
    assert [average.decay(int(updates)) for updates in recorded["ema"]] == pytest.approx(
        list(recorded["ema"].values()), abs=1e-9
    )


# -- the moving average ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("updates", "decay"), [(1, 0.0005), (100, 0.048766), (2000, 0.632057), (10000, 0.993163)])
def test_decay(updates, decay):
    assert ModelEMA(nn.Linear(1, 1)).decay(updates) == pytest.approx(decay, abs=5e-7)


def test_average_follows_weights_and_statistics():
    model = small_network()
    average = ModelEMA(model)
    assert not average.ema.training
    assert not any(parameter.requires_grad for parameter in average.ema.parameters())
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for step in range(1, 4):
        model.train()(torch.randn(2, 3, 8, 8))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(model)
        decay = 0.9999 * (1 - math.exp(-step / 2000))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in average.ema.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=1e-6)
    assert average.ema[1].num_batches_tracked == 0  # integers keep their first value
    assert average.updates == 3


def test_average_of_equal_models_stays():
    model = small_network()
    average = ModelEMA(model, updates=5000)
    before = copy.deepcopy(average.ema.state_dict())
    for _ in range(10):
        average.update(model)
    assert all(torch.equal(value, before[name]) for name, value in average.ema.state_dict().items())


def test_average_survives_a_change_of_precision():
    model = small_network()
    average = ModelEMA(model)
    average.ema.half().float()
    average.update(nn.DataParallel(model))
    torch.testing.assert_close(average.ema[0].weight, model[0].weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["none", "loaded", "assigned", "module", "average"])
def test_average_follows_tensors_that_are_replaced(change, monkeypatch):
    model = small_network()
    model.register_buffer("scratch", torch.zeros(1), persistent=False)
    average = ModelEMA(model, decay=0.5, tau=1e-3)
    average.update(model)
    other = {name: torch.full_like(value, 3) for name, value in model.state_dict().items()}
    if change in ("loaded", "assigned"):
        model.load_state_dict(other, assign=change == "assigned")
    elif change == "module":
        model[0] = nn.Conv2d(3, 4, 3)
    elif change == "average":
        average.ema = copy.deepcopy(average.ema)
    before = {name: value.clone() for name, value in average.ema.state_dict().items()}
    current = {name: value.clone() for name, value in model.state_dict().items()}
    for network in (model, average.ema):
        monkeypatch.setattr(network, "state_dict", lambda: pytest.fail("a state dict takes longer than the average"))
    average.update(model)
    monkeypatch.undo()
    for name, value in average.ema.state_dict().items():
        expected = (before[name] + current[name]) / 2 if value.is_floating_point() else before[name]
        torch.testing.assert_close(value, expected)


def test_update_attr():
    model = small_network()
    average = ModelEMA(model)
    model.names, model.hyp, model.process_group, model._hidden = ["a"], {"lr0": 1}, "secret", 1
    average.update_attr(model, include=["names"])
    assert average.ema.names == ["a"]
    assert not hasattr(average.ema, "hyp")
    average.update_attr(model)
    assert average.ema.hyp == {"lr0": 1}
    assert not hasattr(average.ema, "process_group")
    assert not hasattr(average.ema, "_hidden")
