"""The network that a run starts from: it is the one of the checkpoint, whatever that was made of."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools import finetune, train_sparity
from prune_tools.finetune import FinetuneOptions
from prune_tools.train_sparity import SparseOptions
from tests.conftest import TINY_MODEL
from utils.callbacks import Callbacks
from utils.checkpoint import save_checkpoint
from utils.config import TrainOptions, build

HUGE_ANCHORS = [[1000, 1300, 1600, 3000], [3000, 6100, 6200, 4500], [11600, 9000, 15600, 19800]]  # fit no label


def tiny_network(**changes: Any) -> DetectionModel:
    """The small detector of the tests with two classes, random weights and norms that count."""
    torch.manual_seed(0)
    model = DetectionModel(deepcopy({**TINY_MODEL, **changes}))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.affine:
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    model.names = ["disc", "square"]
    return model.eval()


def saved(model: DetectionModel, path: Path) -> Path:
    """A stripped checkpoint of ``model``."""
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, path)
    return path


def short_run(options_class: type, weights: Path, data: Path, folder: Path, **changes: Any) -> Any:
    """Options of one epoch on the CPU, without plots and loader processes."""
    common = {
        "data": str(data), "weights": str(weights), "imgsz": 64, "batch_size": 4, "epochs": 1, "workers": 0,
        "device": "cpu", "project": str(folder), "noplots": True,
    }  # fmt: skip
    return build(options_class, **(common | changes))


# -- anchors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "options_class"),
    [(train_sparity, SparseOptions), (finetune, FinetuneOptions)],
    ids=["sparse", "finetune"],
)
@pytest.mark.parametrize("with_cfg", [False, True])
def test_a_trained_head_keeps_its_anchors(command, options_class, with_cfg, tiny_dataset, tiny_cfg, tmp_path, caplog):
    source = tiny_network(anchors=HUGE_ANCHORS)
    weights = saved(source, tmp_path / "trained.pt")
    cfg = str(tiny_cfg) if with_cfg else ""
    with caplog.at_level("INFO", "yolov5"):
        command.main(short_run(options_class, weights, tiny_dataset, tmp_path / "runs", cfg=cfg))
    after = load_checkpoint(tmp_path / "runs/exp/weights/last.pt")["model"].model[-1].anchors.float()
    assert torch.equal(after, source.model[-1].anchors.half().float())
    assert "fit this data set poorly at 64 pixels, but they stay" in caplog.text


def test_train_finds_anchors_and_its_average_has_them_at_once(tiny_dataset, tmp_path):
    source = tiny_network(anchors=HUGE_ANCHORS)
    options = short_run(TrainOptions, saved(source, tmp_path / "trained.pt"), tiny_dataset, tmp_path / "runs")
    callbacks, seen = Callbacks(), []

    def note(state: Any) -> None:
        seen.append((state.model.model[-1].anchors.clone(), state.ema.ema.model[-1].anchors.clone()))

    callbacks.register_action("on_training_ready", callback=note)
    train.main(options, callbacks)
    ((own, averaged),) = seen
    assert own.max() < source.model[-1].anchors.max() / 10
    assert torch.equal(own, averaged)


def test_a_new_head_may_get_new_anchors(tiny_dataset, tmp_path):
    source = tiny_network(anchors=HUGE_ANCHORS, nc=5)
    source.names = list("abcde")
    weights = saved(source, tmp_path / "other.pt")
    train_sparity.main(short_run(SparseOptions, weights, tiny_dataset, tmp_path / "runs"))
    after = load_checkpoint(tmp_path / "runs/exp/weights/last.pt")["model"].model[-1].anchors.float()
    assert after.max() < source.model[-1].anchors.max() / 10
