"""Fine-tuning with another activation: the file that the run starts from, what is said of it, and what follows."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.blocks import Conv
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools import finetune
from prune_tools.channels.structure import Structure
from prune_tools.opening import load_model
from prune_tools.training_images import repair_images
from prune_tools.tuning import activation
from prune_tools.tuning.options import ACTIVATIONS, FinetuneOptions, with_recipe
from prune_tools.yolo_pruned import outputs_of, prune_model
from tests.conftest import TINY_MODEL
from tests.pruning_networks import random_plan
from utils.callbacks import Callbacks
from utils.checkpoint import save_checkpoint
from utils.commands.options import build
from utils.dataset.description import check_dataset
from utils.errors import InputError
from utils.storage.files import ROOT
from utils.training.hyperparameters import read_hyperparameters


def network() -> DetectionModel:
    """A tiny detector with random weights; its first block has no activation."""
    torch.manual_seed(0)
    model = DetectionModel(deepcopy(TINY_MODEL), nc=2)
    model.names, model.hyp = ["disc", "square"], read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
    model.get_submodule("model.0").act = nn.Identity()
    return model.eval()


def activations(model: nn.Module) -> set[str]:
    return {type(module.act).__name__ for module in model.modules() if isinstance(module, Conv)}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint; the clock says that another activation halves the time."""
    monkeypatch.setattr(activation, "time_networks", lambda *_: ([2.0] * 3, [4.0] * 3))
    file = tmp_path / "start.pt"
    save_checkpoint({"model": network().half(), "ema": None, "optimizer": None, "epoch": -1}, file)
    return file


def options(start: Path, data: Path, **changes: Any) -> FinetuneOptions:
    common = {
        "data": str(data), "weights": str(start), "imgsz": 64, "batch_size": 4, "epochs": 2, "workers": 0,
        "device": "cpu", "project": str(start.parent / "runs"), "noplots": True, "activation": "relu",
    }  # fmt: skip
    return build(FinetuneOptions, **(common | changes))


@pytest.mark.parametrize("name", ["relu", "relu6", "leakyrelu", "hardswish"])
def test_all_blocks_get_it_but_those_without_one(name):
    model = network()
    changed = activation.replaced(model, ACTIVATIONS[name])
    assert changed is not None and changed.yaml["activation"] == ACTIVATIONS[name]
    assert activations(model) == {"SiLU", "Identity"} and len(activations(changed)) == 2
    rebuilt = DetectionModel(changed.yaml)
    assert activations(rebuilt) == activations(changed) and "SiLU" not in activations(changed)
    rebuilt.load_state_dict(model.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs, before = changed(image)[0], rebuilt.eval()(image)[0], model(image)[0]
    assert torch.equal(ours, theirs) and not torch.equal(ours, before)


def test_silu_comes_back(start, tiny_dataset):
    there = activation.with_activation(options(start, tiny_dataset, reconstruct=0))
    back = activation.with_activation(replace(there, activation="silu"))
    model = load_checkpoint(back.weights)["model"]
    assert Path(back.weights).name == "start_relu_silu.pt" and activations(model) == {"SiLU", "Identity"}
    assert "activation" not in model.yaml
    original = load_checkpoint(start)["model"].state_dict()
    assert all(torch.equal(value, original[name]) for name, value in model.state_dict().items())


def test_a_network_that_has_it_already_is_refused(start, tiny_dataset):
    assert activation.replaced(network(), "nn.SiLU()") is None
    with pytest.raises(InputError, match=r"--activation silu: .*start\.pt has it already"):
        activation.with_activation(options(start, tiny_dataset, activation="silu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "ReLU()"}, "--activation 'ReLU\\(\\)' is not offered: expected one of relu, "),
        ({"activation": "", "runtime": "openvino"}, "--runtime openvino only acts with --activation"),
        ({"activation": "", "reconstruct": 0}, "--reconstruct 0 only acts with --activation"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(InputError, match=message):
        build(FinetuneOptions, **changes)


@pytest.mark.parametrize(("name", "recipe"), [("relu", "short"), ("leakyrelu", "short"), ("hardswish", "gentle")])
def test_the_recipe_is_that_of_a_model_that_has_lost_accuracy_where_it_has(name, recipe):
    assert with_recipe(build(FinetuneOptions, activation=name)).recipe == recipe
    assert with_recipe(build(FinetuneOptions, activation=name, recipe="v6.2")).recipe == "v6.2"


def test_the_re_fit_brings_the_outputs_nearer_to_those_with_the_old_activation(start, tiny_dataset):
    batches = repair_images(check_dataset(tiny_dataset), 4, 64, 32)
    before = load_model(start)[0]

    def distance(reconstruct: int) -> float:
        chosen = replace(options(start, tiny_dataset), reconstruct=reconstruct)
        after = load_model(activation.with_activation(chosen).weights)[0]
        pairs = zip(*(outputs_of(model, batches[0].images / 255) for model in (before, after)), strict=True)
        return sum(float((ours - theirs).square().mean()) for ours, theirs in list(pairs)[1:])  # logits of the levels

    assert distance(4) < 0.5 * distance(0)


def test_a_run_starts_with_it_says_what_it_costs_and_gains_and_is_resumed(start, tiny_dataset, caplog):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=stop)
    with caplog.at_level(logging.INFO, "yolov5"), pytest.raises(KeyboardInterrupt):
        finetune.main(options(start, tiny_dataset), callbacks)
    changed = start.with_name("start_relu.pt")
    text = caplog.text
    assert "--activation relu takes 0.50 of the time per image in torch" in text
    assert f"Starting from {changed}, the weights of {start} with nn.ReLU()" in text
    assert "convolutions re-fitted on" in text and "the part of the former outputs' variance" in text
    assert f"Before fine-tuning, {changed} has mAP50 " in text and f"; {start} has " in text
    assert activations(load_checkpoint(start)["model"]) == {"SiLU", "Identity"}

    folder = start.parent / "runs/exp"
    caplog.clear()
    with caplog.at_level(logging.INFO, "yolov5"):
        finetune.main(build(FinetuneOptions, resume=str(folder / "weights/last.pt"), device="cpu"))
    assert "Starting from" not in caplog.text
    for name in ("last", "best"):
        model = load_checkpoint(folder / f"weights/{name}.pt")["model"]
        assert activations(model) == {"ReLU", "Identity"} and model.yaml["activation"] == "nn.ReLU()"

    model, _ = load_model(folder / "weights/best.pt")  # and it is pruned again
    groups = Structure.of(model).select("all").groups
    prune_model(model, groups, random_plan(groups))
    assert model.yaml["activation"] == "nn.ReLU()" and model.yaml["channels"]
    assert activations(DetectionModel(model.yaml)) == {"ReLU", "Identity"}
