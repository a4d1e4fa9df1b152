"""Reading without running foreign code, clear refusals, and files that other YOLOv5 releases can read."""

from __future__ import annotations

import argparse
import builtins
import io
import os
import pickle
import threading
import zipfile
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from torch import nn

from models.configuration import read_config
from models.loading import load_checkpoint, strip_optimizer
from models.yolo import DetectionModel
from tests.torch_file_tools import pickled_globals
from utils import checkpoint as checkpoint_module
from utils.checkpoint import (
    CheckpointWriter,
    copy_matching,
    intersect_dicts,
    plain,
    save_checkpoint,
    write_checkpoint,
)
from utils.errors import CheckpointError, InputError, MissingFileError
from utils.torch_files.module_copy import copy_to_cpu
from utils.training.optim import ModelEMA, smart_optimizer

# What YOLOv5 v6.2 and v7.0 can import, beside their own blocks
EVERYWHERE = {
    "__builtin__.set", "collections.OrderedDict", "torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor_v2",
    "torch.FloatStorage", "torch.HalfStorage", "torch.LongStorage", "torch.DoubleStorage", "torch.ByteStorage",
}  # fmt: skip


def tiny_model(nc: int = 2) -> DetectionModel:
    """A detector of 3 levels with very few channels, seeded."""
    torch.manual_seed(0)
    config = {
        "nc": nc, "depth_multiple": 0.33, "width_multiple": 0.5,
        "anchors": [[10, 13, 16, 30], [30, 61, 62, 45], [116, 90, 156, 198]],
        "backbone": [
            [-1, 1, "Conv", [16, 3, 8]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C3", [16]], [-1, 1, "Conv", [32, 3, 2]],
            [-1, 1, "SPPF", [32, 5]],
        ],
        "head": [[[0, 2, 4], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    return DetectionModel(config)


def training_state(model: nn.Module, **changes) -> dict:
    """Return what train.py saves, with kinds of values that other programs could not read."""
    model.names, model.nc = {0: "face", 1: "mask"}, 2
    model.hyp = {"lr0": np.float64(0.01), "anchors": np.arange(2)}
    ema = ModelEMA(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    optimizer = smart_optimizer(model)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    state = {
        "epoch": 3, "best_fitness": np.array([0.25]), "model": model, "ema": ema.ema, "updates": 7,
        "optimizer": optimizer.state_dict(), "wandb_id": None, "date": "2022-08-17T12:00:00",
        "opt": {"project": Path("runs/train"), "hyp": {"lr0": 0.01}, "seed": np.int64(3)},
        "resume": {"torch": torch.get_rng_state(), "python": (3, (1, 2**31 + 5), None)},
    }  # fmt: skip
    return state | changes


@pytest.fixture
def trained(tmp_path) -> Path:
    """A training checkpoint on disk."""
    save_checkpoint(training_state(tiny_model()), tmp_path / "last.pt")
    return tmp_path / "last.pt"


# -- saving and stripping --------------------------------------------------------------------------------------------


def test_training_file_is_exact_and_plain(tmp_path):
    model = tiny_model()
    state = training_state(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save_checkpoint(state, tmp_path / "last.pt")
    assert model.names == {0: "face", 1: "mask"}  # the model in memory is not touched
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert all(torch.equal(value, before[key]) for key, value in loaded["model"].state_dict().items())
    assert type(loaded["best_fitness"]) is float
    assert loaded["best_fitness"] == 0.25
    assert loaded["opt"] == {"project": "runs/train", "hyp": {"lr0": 0.01}, "seed": 3}
    assert loaded["model"].names == ["face", "mask"]
    assert loaded["model"].hyp == {"lr0": 0.01, "anchors": [0, 1]}
    assert loaded["resume"]["python"] == (3, (1, 2**31 + 5), None)
    assert torch.equal(loaded["resume"]["torch"], state["resume"]["torch"])
    model.zero_grad()
    smart_optimizer(loaded["model"]).load_state_dict(loaded["optimizer"])


def test_files_name_only_what_every_yolov5_has(trained):
    for step in ("training", "stripped"):
        names = set(pickled_globals(trained))
        blocks = {name for name in names if name.startswith(("models.yolo.", "models.common."))}
        layers = {name for name in names if name.startswith("torch.nn.modules.")}
        assert names - blocks - layers <= EVERYWHERE, step
        assert "models.yolo.DetectionModel" in blocks
        assert blocks <= {f"models.common.{name}" for name in ("Conv", "C3", "Bottleneck", "SPPF")} | {
            "models.yolo.DetectionModel", "models.yolo.Detect"}  # fmt: skip
        strip_optimizer(trained)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov5n.yaml", "yolov5s-ghost.yaml", "yolov5s-transformer.yaml", "yolov3-tiny.yaml"])
def test_saved_configurations_name_only_stock_classes(name, tmp_path):
    config = read_config(name) | {"width_multiple": 0.1}
    save_checkpoint({"model": DetectionModel(config), "ema": None, "optimizer": None}, tmp_path / "model.pt")
    for found in pickled_globals(tmp_path / "model.pt"):
        assert found in EVERYWHERE or found.startswith(("models.yolo.", "models.common.", "torch.nn.modules.")), found
    assert load_checkpoint(tmp_path / "model.pt")["model"].yaml["nc"] == 80


def test_strip_keeps_the_average_and_the_options(trained):
    full = load_checkpoint(trained)
    size = trained.stat().st_size
    strip_optimizer(trained)
    stripped = load_checkpoint(trained)
    assert stripped["epoch"] == -1
    assert all(stripped[key] is None for key in ("best_fitness", "ema", "updates", "optimizer", "wandb_id"))
    assert stripped["opt"] == full["opt"]
    assert stripped["date"] == full["date"]
    assert "resume" not in stripped
    state = stripped["model"].state_dict()
    assert all(torch.equal(value, state[key]) for key, value in full["ema"].half().state_dict().items())
    assert {value.dtype for value in state.values()} == {torch.float16, torch.int64}
    assert not any(parameter.requires_grad for parameter in stripped["model"].parameters())
    assert trained.stat().st_size < size / 2


def test_strip_to_another_file_and_without_average(tmp_path):
    save_checkpoint(training_state(tiny_model(), ema=None), tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    strip_optimizer(tmp_path / "last.pt", tmp_path / "out.pt")
    assert (tmp_path / "last.pt").read_bytes() == before
    once = load_checkpoint(tmp_path / "out.pt")["model"].state_dict()
    strip_optimizer(tmp_path / "out.pt")
    again = load_checkpoint(tmp_path / "out.pt")["model"].state_dict()
    assert all(torch.equal(once[key], again[key]) for key in once)


class FullDisk(io.FileIO):
    """A file on a disk that is full after ``room`` bytes."""

    room = 0

    def write(self, data):
        if self.tell() + len(data) > self.room:
            raise OSError(28, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
def test_a_failed_save_leaves_the_old_file(trained, monkeypatch, share):
    before = trained.read_bytes()
    monkeypatch.setattr(FullDisk, "room", share * len(before))
    monkeypatch.setattr(checkpoint_module, "open", FullDisk, raising=False)
    with pytest.raises(OSError, match="No space") as caught:
        save_checkpoint({"model": tiny_model(), "optimizer": {"state": torch.ones(len(before))}}, trained)
    assert caught.value.filename == str(trained)
    assert trained.read_bytes() == before
    assert [path.name for path in trained.parent.iterdir()] == ["last.pt"]


def test_the_same_checkpoint_is_the_same_file(tmp_path):
    model = tiny_model()
    for name in ("a.pt", "another.pt"):
        save_checkpoint({"model": model}, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_fused_models_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="fused"):
        save_checkpoint({"model": tiny_model().fuse()}, tmp_path / "fused.pt")


def test_plain_values():
    paths = Path("x/y"), PureWindowsPath("c:/z")
    value = {"a": np.float32(0.5), np.int64(2): [np.zeros((1, 2)), paths], "n": argparse.Namespace(k=None)}
    assert plain(value) == {"a": 0.5, 2: [[[0.0, 0.0]], (str(Path("x/y")), "c:\\z")], "n": {"k": None}}
    tensor = nn.Parameter(torch.ones(1))
    assert not plain(tensor).requires_grad
    assert plain([torch.Size([1, 2]), torch.float16, range(3)]) == [torch.Size([1, 2]), torch.float16, range(3)]
    with pytest.raises(TypeError, match="functools"):
        import functools

        plain({"schedule": functools.partial(print)})


# -- refusals --------------------------------------------------------------------------------------------------------


class Attack:
    """Its pickle calls a function when it is opened."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refusal(path: Path) -> str:
    """The one-line message with which ``path`` is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert isinstance(caught.value, InputError)
    assert "\n" not in message
    assert path.name in message
    return message


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_code_is_named_and_not_run(tmp_path, protocol, zipped):
    file, witness = tmp_path / "attack.pt", tmp_path / "witness"
    content = {"epoch": -1, "model": Attack(os.system, f"touch {witness}")}
    if zipped:
        torch.save(content, file, pickle_protocol=max(protocol, 2))
    else:
        file.write_bytes(pickle.dumps(content, protocol=protocol))
    message = refusal(file)
    assert f"{os.system.__module__}.system" in message
    assert "refused" in message
    assert "save it again" in message
    assert not witness.exists()


@pytest.mark.parametrize("function", [eval, getattr, builtins.__import__, torch.hub.load, torch.load, np.load])
def test_other_functions_are_refused_too(tmp_path, function):
    torch.save({"model": Attack(function, "x", "y")}, tmp_path / "attack.pt")
    assert function.__name__ in refusal(tmp_path / "attack.pt")


def test_attack_inside_a_module(tmp_path):
    model = tiny_model()
    model.model[0].extra = Attack(os.system, f"touch {tmp_path}/witness")
    torch.save({"model": model}, tmp_path / "attack.pt")
    assert "system" in refusal(tmp_path / "attack.pt")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files(trained, share):
    content = trained.read_bytes()
    trained.write_bytes(content[: int(len(content) * share)])
    assert "incomplete" in refusal(trained)


@pytest.mark.parametrize(
    "content", [b"just text\n", b"{'a': 1}", bytes(range(256)) * 20, b"<html>", pickle.dumps([1, 2])]
)
def test_files_of_other_kinds(tmp_path, content):
    (tmp_path / "other.pt").write_bytes(content)
    assert "not a PyTorch checkpoint" in refusal(tmp_path / "other.pt")


def test_empty_file_and_other_archive(tmp_path):
    (tmp_path / "empty.pt").touch()
    assert "is empty" in refusal(tmp_path / "empty.pt")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "zip archive" in refusal(tmp_path / "archive.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
        archive.writestr("script/data.pkl", b"")
    assert "TorchScript" in refusal(tmp_path / "script.pt")


def test_damaged_pickle_in_a_whole_archive(trained):
    with zipfile.ZipFile(trained) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(trained, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content[: len(content) // 3] if name.endswith("data.pkl") else content)
    assert "damaged" in refusal(trained)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "list"),
        ("text", "str"),
        ({}, "no keys"),
        ({"weights": 1, "epoch": 2}, "weights, epoch"),
        ({"model": 3}, "int"),
        ({"model": None, "ema": None}, "without it"),
        ({"model": nn.Conv2d(1, 1, 1)}, "Conv2d"),
        (nn.Linear(1, 1), "bare Linear"),
        (nn.Linear(1, 1).state_dict(), "2 tensors"),
        ({"model": nn.Linear(1, 1).state_dict()}, "load_state_dict"),
        ({"state_dict": nn.Linear(1, 1).state_dict()}, "load_state_dict"),
    ],
)
def test_content_that_is_no_checkpoint(tmp_path, content, expected):
    torch.save(content, tmp_path / "other.pt")
    message = refusal(tmp_path / "other.pt")
    assert expected in message
    assert "expected a dict whose 'model' is a DetectionModel" in message


def test_a_model_without_its_layers(tmp_path):
    model = tiny_model()
    del model.model
    torch.save({"model": model}, tmp_path / "hollow.pt")
    assert "incomplete" in refusal(tmp_path / "hollow.pt")


def test_missing_file_folder_and_released_name(tmp_path):
    for name, expected in (
        ("nowhere.pt", "check the path"),
        ("yolov5s6.pt", "download/v6.2/yolov5s6.pt by hand"),
    ):
        with pytest.raises(MissingFileError, match=expected):
            load_checkpoint(tmp_path / name)
    with pytest.raises(MissingFileError, match="folder"):
        load_checkpoint(tmp_path)


# -- copying weights -------------------------------------------------------------------------------------------------


def test_copy_matching_counts_and_copies():
    source, target = tiny_model(nc=4), tiny_model(nc=2)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    source.model[-1].anchors += 1
    before = target.model[-1].anchors.clone()
    copied, total = copy_matching(source.state_dict(), target, exclude=["anchor"])
    assert total == len(target.state_dict())
    assert copied == total - 6 - 1  # three head convolutions with bias, and the anchors
    assert torch.equal(target.model[-1].anchors, before)
    assert torch.equal(target.model[0].conv.weight, source.model[0].conv.weight)
    assert copy_matching(source.state_dict(), target) == (total - 6, total)
    assert torch.equal(target.model[-1].anchors, source.model[-1].anchors)


def test_intersect_dicts():
    first = {"a": torch.zeros(2), "b": torch.zeros(3), "anchors": torch.zeros(1), "c": torch.zeros(1)}
    second = {"a": torch.ones(2), "b": torch.ones(2), "anchors": torch.ones(1)}
    assert set(intersect_dicts(first, second)) == {"a", "anchors"}
    assert set(intersect_dicts(first, second, ("anchor",))) == {"a"}


def test_a_copy_on_the_cpu_shares_nothing_and_keeps_what_is_shared_within():
    network = tiny_model()
    network.twin = network.model[0]
    network.model[0].conv.weight.requires_grad = False
    copied = copy_to_cpu(network)
    expected = network.state_dict()
    assert copied.state_dict().keys() == expected.keys() and copied.twin is copied.model[0]
    for name, value in copied.state_dict().items():
        assert torch.equal(value, expected[name]) and value.stride() == expected[name].stride()
        assert value.data_ptr() != expected[name].data_ptr() or not value.numel()
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in network.parameters()]
    assert vars(copied).keys() == vars(network).keys()


def test_copies_of_a_checkpoint_are_the_same_bytes(tmp_path):
    save_checkpoint(training_state(tiny_model()), tmp_path / "best.pt", tmp_path / "last.pt")
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "last.pt").read_bytes()


# -- writing while training continues ----------------------------------------------------------------------------------


def test_what_is_written_is_the_state_of_that_moment(tmp_path, monkeypatch):
    model, momentum = tiny_model(), torch.ones(3)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    may_write = threading.Event()

    def held_up(*arguments):
        assert may_write.wait(60)
        write_checkpoint(*arguments)

    monkeypatch.setattr(checkpoint_module, "write_checkpoint", held_up)
    writer = CheckpointWriter()
    writer.write({"model": model, "optimizer": {"state": momentum}}, tmp_path / "best.pt", tmp_path / "last.pt")
    with torch.no_grad():  # training continues
        momentum.zero_()
        for parameter in model.parameters():
            parameter.zero_()
    may_write.set()
    writer.finish()
    for name in ("best.pt", "last.pt"):
        content = load_checkpoint(tmp_path / name)
        assert all(torch.equal(value, expected[key]) for key, value in content["model"].state_dict().items())
        assert content["optimizer"]["state"].tolist() == [1, 1, 1]
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "last.pt").read_bytes()


def test_an_error_of_writing_is_raised_by_the_next_call(trained, monkeypatch):
    before = trained.read_bytes()
    monkeypatch.setattr(checkpoint_module, "open", FullDisk, raising=False)
    writer = CheckpointWriter()
    writer.write({"model": tiny_model()}, trained)
    with pytest.raises(OSError, match="No space") as caught:
        writer.write({"model": tiny_model()}, trained)
    assert caught.value.filename == str(trained)
    assert trained.read_bytes() == before
    writer.finish()  # the error has been raised, and nothing is under way
