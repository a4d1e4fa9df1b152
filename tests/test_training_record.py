"""What commands take from the record in a checkpoint, and what they never believe of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import val
from models.backends import DetectMultiBackend
from models.exporters.options import ExportOptions
from models.exporters.request import with_training
from models.loading import load_checkpoint, read_record, strip_optimizer, with_record_of
from models.yolo import DetectionModel
from prune_tools.opening import load_model, open_inputs
from prune_tools.options import PruneOptions
from prune_tools.tuning.options import FinetuneOptions
from prune_tools.yolo_pruned import save_model
from utils.commands.options import build
from utils.errors import InputError
from utils.storage.files import ROOT, read_yaml, write_yaml
from utils.training.options import TrainOptions
from utils.training_record import DATA_SETS, TrainingRecord, recorded_fields, training_record


def checkpoint_with(network: DetectionModel, path: Path, **entries: Any) -> Path:
    """Write a checkpoint with these further entries."""
    torch.save({"model": network, "epoch": -1, "optimizer": None, **entries}, path)
    return path


@pytest.fixture
def network(tiny_cfg) -> DetectionModel:
    """A small network with the classes of the small data set."""
    network = DetectionModel(str(tiny_cfg))
    network.names = ["disc", "square"]
    return network


def test_every_command_takes_data_and_size_from_the_weights(network, tiny_dataset, tmp_path, heard):
    file = checkpoint_with(network, tmp_path / "w.pt", opt={"data": str(tiny_dataset), "imgsz": 96})
    line = f"Taken from {file}: --data {tiny_dataset} --imgsz 96"
    pruning = open_inputs(build(PruneOptions, weights=str(file), device="cpu", workers=0)).options
    assert (pruning.data, pruning.imgsz) == (str(tiny_dataset), 96) and line in heard.messages
    tuning = with_record_of(file, build(FinetuneOptions, weights=str(file)))
    assert (tuning.data, tuning.imgsz) == (str(tiny_dataset), 96)
    exporting = with_training(build(ExportOptions, weights=str(file)), file)
    assert (exporting.data, exporting.imgsz) == (str(tiny_dataset), [96, 96])
    assert DetectMultiBackend(str(file)).image_size(None) == [96, 96]
    heard.clear()
    val.run(weights=str(file), device="cpu", workers=0, plots=False, save_dir=tmp_path)
    assert line in heard.messages and "at shape (32, 3, 96, 96)" in heard.text


def test_what_the_command_line_gives_counts(network, tiny_dataset, tmp_path, heard):
    file = checkpoint_with(network, tmp_path / "w.pt", opt={"data": "/elsewhere/d.yaml", "imgsz": 96})
    options = with_record_of(file, build(FinetuneOptions, data=str(tiny_dataset)))
    assert (options.data, options.imgsz) == (str(tiny_dataset), 96)
    assert heard.messages == [f"Taken from {file}: --imgsz 96"]
    assert with_record_of("absent.pt", build(FinetuneOptions, data="d.yaml", imgsz=64)).imgsz == 64


@pytest.mark.parametrize(
    "opt",
    [None, {}, "text", [1], {"data": 3, "imgsz": "96"}, {"imgsz": True, "data": None}, {"imgsz": -1},
     {"imgsz": 10**9, "data": ["d.yaml"]}, {"data": "x" * 5000}],
)  # fmt: skip
def test_a_record_of_other_types_says_nothing(network, opt):
    record = training_record({"model": network, "opt": opt}, "w.pt")
    assert (record.data, record.imgsz, record.image_size, record.names) == ("", None, 640, ("disc", "square"))


@pytest.mark.parametrize(
    "data", ["/elsewhere/d.yaml", "https://host/d.yaml", "//host/share/d.yaml", "\\\\host\\share\\d.yaml", "w.pt",
             "data\n.yaml", "data", "d.yaml.exe"],
)  # fmt: skip
def test_a_data_set_that_is_not_here_is_asked_for(data):
    with pytest.raises(
        InputError, match=r"w\.pt was trained on .* cannot be used here .*: name the data set with --data"
    ):
        TrainingRecord("w.pt", ("disc", "square"), data).data_set()


def test_nothing_is_downloaded_for_a_record(tiny_dataset, tmp_path, monkeypatch):
    content = read_yaml(tiny_dataset) | {"path": str(tmp_path / "absent"), "download": "https://host/images.zip"}
    write_yaml(tmp_path / "d.yaml", content)
    monkeypatch.setattr("utils.dataset.description.provide", lambda *_: pytest.fail("a download was started"))
    with pytest.raises(InputError, match="name the data set with --data"):
        TrainingRecord("w.pt", ("disc", "square"), str(tmp_path / "d.yaml")).data_set()


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_default_data_set_is_one_with_the_classes_of_the_model(name, heard):
    names = tuple(read_yaml(ROOT / name)["names"].values())
    assert TrainingRecord("w.pt", names).data_set() == str(ROOT / name)
    assert f"taking {name}, which has the same classes" in heard.text
    with pytest.raises(InputError, match="does not say which data set it was trained on: name the data set"):
        TrainingRecord("w.pt", names[:-1]).data_set()
    with pytest.raises(InputError, match="no --data is given"):
        TrainingRecord("").data_set()


def test_an_export_needs_no_data_set(network, tmp_path, heard):
    file = checkpoint_with(network, tmp_path / "w.pt", opt={"data": "/elsewhere/d.yaml", "imgsz": 96})
    assert with_training(build(ExportOptions), file).data == ""
    assert "a generated picture is used" in heard.text
    with pytest.raises(InputError, match="name the data set with --data"):
        with_training(build(ExportOptions, int8=True, include=["onnx"]), file)


def test_stripping_and_pruning_keep_the_record(network, tiny_dataset, tmp_path):
    opt = {"data": str(tiny_dataset), "imgsz": 96, "single_cls": False, "batch_size": 4}
    file = checkpoint_with(network, tmp_path / "w.pt", opt=opt)
    strip_optimizer(file)
    model, content = load_model(file)
    save_model(model, tmp_path / "pruned_model.pt", content)
    for path in (file, tmp_path / "pruned_model.pt"):
        assert load_checkpoint(path)["opt"] == opt
        assert torch.load(path, weights_only=False)["opt"] == opt  # as YOLOv5 reads it
        options = build(TrainOptions, data=str(tiny_dataset), imgsz=96)
        assert recorded_fields(read_record(path), options) == ("data", "imgsz")
        assert recorded_fields(read_record(path), build(TrainOptions, data="other.yaml", imgsz=64)) == ()


def test_a_shipped_data_set_is_the_recorded_one_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # there is no data/mask_demo.yaml in it
    record = TrainingRecord("w.pt", data=str(ROOT / "data/mask_demo.yaml"), imgsz=96)
    assert recorded_fields(record, build(TrainOptions, data="data/mask_demo.yaml", imgsz=64)) == ("data",)
