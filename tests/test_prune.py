"""The command prune.py, on a small drawn data set."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools import prune, prune_run
from prune_tools.opening import load_model, newest_sparse_run
from tests.pruning_networks import with_random_norms
from utils.checkpoint import save_checkpoint
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER
from utils.storage.files import ROOT, read_yaml

pytestmark = pytest.mark.usefixtures("quick_timing")


def shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(value.shape)) for name, value in model.state_dict().items()]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, wide_cfg) -> Path:
    """A detector of the tiny data set's classes whose gammas differ."""
    model = with_random_norms(DetectionModel(wide_cfg)).float()
    model.names = ["disc", "square"]
    path = tmp_path_factory.mktemp("sparse") / "last.pt"
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None, "opt": {"sr": 0.01}}, path)
    return path


def options(checkpoint: Path, tiny_dataset: Path, folder: Path, **more) -> dict:
    return {
        "weights": str(checkpoint), "data": str(tiny_dataset), "project": str(folder),
        "cfg": "", "imgsz": 64, "batch_size": 2, "device": "cpu", "percent": 0.3, **more,
    }  # fmt: skip


def test_command_from_any_folder(checkpoint, wide_cfg, tiny_dataset, tmp_path):
    flags = options(checkpoint, tiny_dataset, tmp_path / "runs", cfg=wide_cfg)
    line = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, str(ROOT / "prune_tools/prune.py"), *line]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/exp"
    for expected in (
        "largest difference",
        "Constants of removed channels folded",
        "model.2.cv3.bn",
        "finetune.py --weights",
    ):
        assert expected in done.stderr
    assert {file.name for file in folder.iterdir()} == {
        "pruned_model.pt",
        "pruned_model.yaml",
        "orign_model.pt",
        "report.html",
        "report.json",
        "report.txt",
    }
    assert "mAP50-95" in (folder / "report.txt").read_text()
    pruned, loaded = load_model(folder / "pruned_model.pt")
    assert loaded["opt"] == {"sr": 0.01}
    assert shapes(DetectionModel(folder / "pruned_model.yaml")) == shapes(pruned)


def test_pruning_a_pruned_file_and_fold_switch(checkpoint, tiny_dataset, tmp_path):
    once = prune.run(**options(checkpoint, tiny_dataset, tmp_path, fold=False, reconstruct=0))
    twice = prune.run(**options(once / "pruned_model.pt", tiny_dataset, tmp_path, percent=0.9, min_channels=2))
    assert twice.name == "exp2"
    first, second = load_model(once / "pruned_model.pt")[0], load_model(twice / "pruned_model.pt")[0]
    assert sum(value.numel() for value in second.parameters()) < sum(value.numel() for value in first.parameters())
    assert min(module.num_features for module in second.modules() if isinstance(module, nn.BatchNorm2d)) == 2
    full = load_model(checkpoint)[0].state_dict()
    # without folding, the means are the original's (in fp16), with folding not
    kept = (
        full["model.1.bn.running_mean"].half()[:, None] == first.state_dict()["model.1.bn.running_mean"].half()
    ).any(0)
    folded = prune.run(**options(checkpoint, tiny_dataset, tmp_path, reconstruct=0))
    moved = load_model(folded / "pruned_model.pt")[0].state_dict()["model.1.bn.running_mean"]
    assert kept.all() and not torch.equal(moved, first.state_dict()["model.1.bn.running_mean"])


def test_noval_prunes_the_same_without_measuring(checkpoint, tiny_dataset, tmp_path, monkeypatch):
    common = options(checkpoint, tiny_dataset, tmp_path, reconstruct=0)
    measured = prune.run(**common)
    monkeypatch.setattr("val.run", lambda *_, **__: pytest.fail("it validates"))
    monkeypatch.setattr("prune_tools.planning.latency.time_calls", lambda *_: pytest.fail("it measures times"))
    folder = prune.run(**common, noval=True)
    models = [load_model(run / "pruned_model.pt")[0].state_dict() for run in (measured, folder)]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    before, pruned = json.loads((folder / "report.json").read_text())["steps"]
    assert pruned["map"] is None and pruned["milliseconds"] is None and pruned["parameters"] < before["parameters"]
    table = [line.split("|")[2:6] for line in (folder / "report.txt").read_text().splitlines() if "| pruned" in line]
    assert [cell.strip() for cell in table[0]] == ["-"] * 4
    page = (folder / "report.html").read_text()
    assert "mAP50</span>" not in page and "None" not in page


def test_repairs_are_switched_one_by_one(checkpoint, tiny_dataset, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger=LOGGER.name)

    def saved(**switches) -> dict[str, torch.Tensor]:
        folder = prune.run(**options(checkpoint, tiny_dataset, tmp_path, **switches))
        return load_model(folder / "pruned_model.pt")[0].state_dict()

    plain = saved(fold=False, reconstruct=0)
    assert "re-fitted" not in caplog.text and "re-estimated" not in caplog.text
    refitted, recalibrated = saved(fold=False, reconstruct=8), saved(fold=False, reconstruct=0, recalibrate=8)
    assert "convolutions re-fitted on 8 images" in caplog.text
    assert "batch norms re-estimated on 8 images" in caplog.text
    weight, mean = "model.2.cv1.conv.weight", "model.2.cv1.bn.running_mean"
    assert not torch.equal(refitted[weight], plain[weight]) and torch.equal(recalibrated[weight], plain[weight])
    assert not torch.equal(recalibrated[mean], plain[mean])


def test_the_proposed_teacher_can_teach(checkpoint, tiny_cfg, tmp_path):
    """The model's start may have other classes, or be narrower, or be gone."""
    content = load_checkpoint(checkpoint)
    files = {"alike": content["model"], "narrow": DetectionModel(tiny_cfg), "other": deepcopy(content["model"])}
    files["narrow"].names, files["other"].names = content["model"].names, ["disc", "circle"]
    for name, model in files.items():
        save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, tmp_path / f"{name}.pt")

    def found(**recorded) -> str:
        places = {key: str(tmp_path / f"{name}.pt") for key, name in recorded.items()}
        return Path(prune_run.find_teacher({**content, "opt": places}, "itself.pt")).stem

    assert found(weights="alike") == "alike" and found(teacher="alike", weights="other") == "alike"
    assert found(weights="narrow") == found(weights="other") == found(weights="gone") == found() == "itself"


def test_weights_that_are_no_numbers_are_named_wherever_they_are(checkpoint, tiny_dataset, tmp_path):
    """Also in a layer that --percent does not touch."""
    model = load_checkpoint(checkpoint)["model"]
    model.model[2].m[0].cv2.bn.bias.data[3] = float("nan")
    path = tmp_path / "diverged.pt"
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, path)
    with pytest.raises(InputError, match=r"model\.2\.m\.0\.cv2\.bn\.bias \(channel 3\) is not a finite number"):
        prune.run(**options(path, tiny_dataset, tmp_path / "runs"))


def test_repairs_need_training_images(checkpoint, tiny_dataset, tmp_path):
    content = read_yaml(tiny_dataset)
    data = tmp_path / "val_only.yaml"
    data.write_text(f"path: {content['path']}\nval: images/val\nnames: {content['names']}\n")
    with pytest.raises(InputError, match="train"):
        prune.run(**options(checkpoint, data, tmp_path / "runs"))
    assert prune.run(**options(checkpoint, data, tmp_path / "runs", reconstruct=0)).is_dir()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"percent": 1.5}, r"--percent .*\[0, 1\), got 1.5"),
        ({"min_channels": 0}, "--min-channels must be at least 1"),
        ({"reconstruct": -1}, "--reconstruct must be at least 0"),
        ({"weights": ["a.pt", "b.pt"]}, "2 files"),
        ({"dnn": True}, "--dnn"),
        ({"half": True}, "--half needs a GPU"),
        (
            {"cfg": "models/yolov5s_mask.yaml"},
            r"another architecture than .*last.pt: model\.0\.conv\.weight is \(32, 3, 6, 6\)",
        ),
        ({"cfg": "models/hub/yolov3-tiny.yaml"}, "another architecture"),
        ({"cfg": "models/nothing.yaml"}, "no such file|no model configuration"),
        ({"weights": "nothing.pt"}, "nothing.pt"),
        ({"imgsz": 0}, "--imgsz"),
    ],
)
def test_bad_options(checkpoint, tiny_dataset, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        prune.run(**{**options(checkpoint, tiny_dataset, tmp_path / "runs"), **change})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("names, found", [("[disc]", "1 classes"), ("[square, disc]", "square, disc")])
def test_other_classes(checkpoint, tiny_dataset, tmp_path, names, found):
    content = read_yaml(tiny_dataset)
    data = tmp_path / "other.yaml"
    data.write_text(f"path: {content['path']}\ntrain: images/train\nval: images/val\nnames: {names}\n")
    with pytest.raises(InputError, match=rf"trained on 2 classes \(disc, square\) but .*{found}"):
        prune.run(**options(checkpoint, data, tmp_path))


def test_fused_checkpoint(tiny_dataset, tmp_path):
    model = DetectionModel(str(ROOT / "models/yolov5n_mask.yaml")).eval().fuse()
    for module in model.modules():
        vars(module).pop("forward", None)
    model.names = ["disc", "square"]
    torch.save({"model": model}, tmp_path / "fused.pt")  # our own writer refuses fused models
    with pytest.raises(InputError, match=r"fused.pt is fused: 57 of its batch norms"):
        prune.run(**options(tmp_path / "fused.pt", tiny_dataset, tmp_path / "runs", cfg=""))
    assert not (tmp_path / "runs").exists()


def test_newest_sparse_run(tmp_path):
    with pytest.raises(MissingFileError, match="no sparse training"):
        newest_sparse_run(tmp_path)
    for name, text in (("exp", "sr: 0.01\n"), ("exp2", "epochs: 3\n")):
        (tmp_path / name / "weights").mkdir(parents=True)
        (tmp_path / name / "weights/best.pt").touch()
        (tmp_path / name / "opt.yaml").write_text(text)
    assert newest_sparse_run(tmp_path).parts[-3:] == ("exp", "weights", "best.pt")
