"""Models in checkpoints that are none, or do not fit together; and those of other programs."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from models.backends import DetectMultiBackend
from models.common import Conv
from models.description import describe_file
from models.ensemble import Ensemble
from models.loading import attempt_load, load_checkpoint, strip_optimizer
from tests.torch_file_tools import name, refusal, tiny_model, write
from utils.checkpoint import save_checkpoint


def _loop(model):
    model._modules["loop"] = model


def _twice(model):
    for _ in range(40):
        model = nn.Sequential(model, model)
    return model


def _set(path: str, attribute: str, value):
    def change(model):
        vars(model.get_submodule(path))[attribute] = value

    return change


def _drop(path: str, attribute: str):
    def change(model):
        vars(model.get_submodule(path)).pop(attribute)

    return change


def _part(path: str, store: str, part: str):
    def change(model):
        del vars(model.get_submodule(path))[store][part]

    return change


def _replace(path: str, module: nn.Module | None):
    def change(model):
        parent, child = path.rsplit(".", 1)
        model.get_submodule(parent)._modules[child] = module

    return change


STRUCTURES = {
    "module in itself": _loop,
    "no buffers": _drop("", "_buffers"),
    "no modules": _drop("model.0", "_modules"),
    "names of a dict of words": _set("", "names", {"a": 1}),
    "names are a number": _set("", "names", 7),
    "one name of two": _set("", "names", ["a"]),
    "three names of two": _set("", "names", ["a", "b", "c"]),
    "names of lists": _set("", "names", [["a"], ["b"]]),
    "no text": _set("", "names", ["\ud800", "b"]),
    "stride of nan": _set("", "stride", torch.tensor([float("nan"), 8])),
    "stride 0": _set("model.3", "stride", torch.zeros(2)),
    "stride of one": _set("", "stride", 8),
    "huge stride": _set("", "stride", torch.tensor([8.0, 1e9])),
    "no source": _drop("model.1", "f"),
    "source ahead": _set("model.1", "f", 2),
    "source far back": _set("model.1", "f", -5),
    "source not kept": _set("model.3", "f", [0, 2]),
    "source of text": _set("model.1", "f", "0"),
    "no number": _drop("model.1", "i"),
    "number is a path": _set("model.1", "i", "/../evil"),
    "kind is a path": _set("model.1", "type", "../../evil"),
    "no kind": _drop("model.1", "type"),
    "save is none": _set("", "save", None),
    "save of text": _set("", "save", ["1"]),
    "fuse in the way": _set("", "fuse", nn.Identity()),
    "forward in the way": _set("model.0", "forward", nn.Identity()),
    "class": _set("model.0", "__class__", "x"),
    "dict": _set("model.0", "__dict__", {}),
    "text in the way": _set("", "to", "x"),
    "hook": lambda model: model._forward_hooks.update({0: nn.Identity()}) or None,
    "pre-hook": lambda model: model.model[0]._forward_pre_hooks.update({0: nn.Identity()}) or None,
    "inner": _set("model.0", "_call_impl", nn.Identity()),
    "a list of modules": _set("", "extra", [nn.Identity()]),
    "a module as an attribute": _set("model.0", "extra", nn.Identity()),
    "no layers": _part("", "_modules", "model"),
    "no convolution": _replace("model.0.conv", None),
    "no activation": _part("model.0", "_modules", "act"),
    "part with a dot": lambda model: model.model[0]._modules.update({"a.b": nn.Identity()}),
    "part in place of a method": lambda model: model.model[0]._modules.update({"forward": nn.Identity()}),
    "no head": _replace("model.3", nn.Identity()),
    "channels": _set("model.0.conv", "in_channels", 5),
    "groups": _set("model.0.conv", "groups", 0),
    "kernel": _set("model.0.conv", "kernel_size", (10**9, 10**9)),
    "padding": _set("model.0.conv", "padding", (10**9, 10**9)),
    "padding mode": _set("model.0.conv", "padding_mode", "x"),
    "features": _set("model.0.bn", "num_features", 3),
    "no mean": _part("model.0.bn", "_buffers", "running_mean"),
    "eps": _set("model.0.bn", "eps", float("nan")),
    "no eps": _drop("model.0.bn", "eps"),
    "inplace": _set("", "inplace", "x"),
    "classes": _set("model.3", "nc", 10**12),
    "classes that do not fit": _set("model.3", "nc", 3),
    "levels": _set("model.3", "nl", 9),
    "no anchors": _part("model.3", "_buffers", "anchors"),
    "training": _set("", "training", "x"),
    "anchors of another shape": lambda model: model.model[3]._buffers.update(anchors=torch.ones(7)),
    "parameter is a buffer": lambda model: model.model[0].conv._parameters.update(weight=torch.ones(8, 3, 3, 3)),
    "overlapping weights": lambda model: model.model[0].conv._parameters.update(
        weight=nn.Parameter(torch.ones(1).expand(8, 3, 3, 3))
    ),
    "yaml": _set("", "yaml", ["x"]),
    "modules of modules": _twice,
    "a model in a model": lambda model: model.model[0]._modules.update(act=tiny_model()),
    "an ensemble": lambda model: model.model[0]._modules.update(act=Ensemble([nn.Identity()])),
    "a million classes": lambda model: vars(model).update(nc=10**9, names=None),
    "classes of text": _set("", "nc", "2"),
    "like a wrapper": _set("", "module", "x"),
    "title": _set("", "yaml_file", ["x"]),
    "long title": _set("", "yaml_file", "x" * 10_000),
    "dynamic": _set("model.3", "dynamic", "x"),
    "buffers of text": _set("model.0.bn", "_non_persistent_buffers_set", [["x"]]),
    "strides of many": _set("model.0.conv", "stride", 2),
    "endless name": _set("", "names", ["a" * 10**6, "b"]),
    "input channels": lambda model: model.yaml.update(ch=10**5),
    "input channels of text": lambda model: model.yaml.update(ch="x"),
    "stride beyond the probe": _set("model.3", "stride", torch.tensor([8.0, 4096])),
    "layers by other names": lambda model: vars(model.model).update(
        _modules={f"x{name}": layer for name, layer in model.model._modules.items()}
    ),
    "head by other names": lambda model: vars(model.model[3].m).update(
        _modules={f"x{name}": layer for name, layer in model.model[3].m._modules.items()}
    ),
    "statistics outside of the state dict": lambda model: model.model[0].bn._non_persistent_buffers_set.add(
        "running_mean"
    ),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_models_that_are_none(tmp_path, structure):
    model = tiny_model()
    changed = STRUCTURES[structure](model)
    torch.save({"model": model if changed is None else changed}, tmp_path / "model.pt")
    refusal(tmp_path / "model.pt")


@pytest.mark.slow
def test_weights_that_are_no_numbers(tmp_path):
    model = tiny_model()
    model.model[1].cv1.conv.weight.data[3] = float("inf")
    save_checkpoint({"model": model}, tmp_path / "inf.pt")
    with pytest.raises(ValueError, match=r"inf\.pt: model\.1\.cv1\.conv\.weight \(channel 3\) is not a finite number"):
        load_checkpoint(tmp_path / "inf.pt")
    load_checkpoint(tmp_path / "inf.pt", finite=False)


def test_torchscript_by_another_name(tmp_path):
    torch.jit.script(nn.Identity()).save(str(tmp_path / "best.torchscript.pt"))
    assert "is a TorchScript export" in refusal(tmp_path / "best.torchscript.pt")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("ultralytics.nn.tasks.DetectionModel", "of the package ultralytics"),
        ("models.yolo.IDetect", "of YOLOv7"), ("models.common.RepNCSPELAN4", "of YOLOv9"),
        ("yolov5.models.yolo.Model", "of the pip package yolov5"), ("models.common.AutoShape", "wrapper of torch.hub"),
        ("models.yolo.SegmentationModel", "of another task"),
        ("torch.nn.modules.rnn.LSTM", "that detectors do not have"),
        ("builtins.getattr", "a fused model"), ("somebody.Block", "which no detection checkpoint needs"),
    ],
)  # fmt: skip
def test_known_homes(tmp_path, path, expected):
    message = refusal(write(tmp_path / "other.pt", name(path) + b")\x81"))
    assert expected in message
    assert path in message
    assert "nothing of it was run" in message


def test_names_from_outside_are_shortened(tmp_path):
    model = tiny_model()
    model.names = ["x" * 100_000]
    torch.save({"model": model}, tmp_path / "long.pt")
    assert len(refusal(tmp_path / "long.pt")) < 500


def test_layers_that_do_not_fit_together(tmp_path):
    model = tiny_model()
    model.model[2] = Conv(5, 16, 3, 2)
    vars(model.model[2]).update(i=2, f=-1, type="models.common.Conv", np=0)
    torch.save({"model": model}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"cannot look at a picture of 64 pixels: .*channels"):
        attempt_load(tmp_path / "model.pt")


def test_numbers_that_appear_on_the_way(tmp_path):
    model = tiny_model()
    model.model[0].bn.running_var.fill_(-5)
    torch.save({"model": model}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="its boxes are not finite"):
        attempt_load(tmp_path / "model.pt")


def test_saved_in_the_middle_of_an_export(tmp_path):
    model = tiny_model()
    model.model[-1].export = True
    torch.save({"model": model}, tmp_path / "model.pt")
    assert len(load_checkpoint(tmp_path / "model.pt")["model"](torch.zeros(1, 3, 64, 64))) == 2


def test_files_that_are_programs_are_announced(tmp_path, caplog):
    program = torch.jit.script(nn.Identity())
    metadata = {"names": ["a"], "stride": 32, "imgsz": [64, 64]}
    program.save(str(tmp_path / "a.torchscript"), _extra_files={"config.txt": json.dumps(metadata)})
    with caplog.at_level("INFO", logger="yolov5"):
        DetectMultiBackend(tmp_path / "a.torchscript")
    assert "a.torchscript is a program" in caplog.text
    assert "only from sources that you trust" in caplog.text


BOMBS = {
    "enlarging": lambda: nn.Sequential(*[nn.Upsample(scale_factor=8) for _ in range(5)]),
    "padding": lambda: nn.Sequential(*[nn.Conv2d(8, 8, 1, padding=64) for _ in range(40)]),
    "unknown": lambda: nn.Sequential(nn.Conv2d(8, 16, 1), nn.AdaptiveAvgPool2d(4096), nn.AdaptiveAvgPool2d(8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_layers_that_are_too_much_work(tmp_path, bomb):
    model = tiny_model()
    model.model[0].act = BOMBS[bomb]()
    torch.save({"model": model.half()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"cannot look at a picture of 64 pixels: .*layer 0 .* 256 pixels"):
        attempt_load(tmp_path / "model.pt")


def test_outputs_that_are_too_much_to_keep(tmp_path):
    model = tiny_model()
    layers = list(model.model)
    layers[0].act = nn.Sequential(nn.Upsample(scale_factor=8), nn.Upsample(scale_factor=8))
    fillers = [nn.LeakyReLU(1.0) for _ in range(9)]
    for index, filler in enumerate(fillers, 1):
        vars(filler).update(i=index, f=-1, type="torch.nn.modules.activation.LeakyReLU")
    model.model = nn.Sequential(layers[0], *fillers, *layers[1:])
    for index, layer in enumerate(layers[1:], 10):
        vars(layer).update(i=index, f=[10, 11] if index == 12 else -1)
    model.save = list(range(12))
    torch.save({"model": model}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"values of an image of 256 pixels are kept for later layers"):
        attempt_load(tmp_path / "model.pt")


def test_parts_that_cannot_be_folded_stay(tmp_path):
    """A transposed convolution in a block has its kernel the other way round."""
    model = tiny_model()
    block = model.model[1].cv3
    block.conv = nn.ConvTranspose2d(block.conv.in_channels, block.conv.out_channels, 1, bias=False)
    torch.save({"model": model}, tmp_path / "model.pt")
    image = torch.rand(1, 3, 64, 64)
    assert torch.allclose(attempt_load(tmp_path / "model.pt")(image)[0], model(image)[0], atol=1e-4)
    model.model[2].conv = nn.Identity()
    torch.save({"model": model}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"cannot look at a picture"):
        attempt_load(tmp_path / "model.pt")
    model.model[2].conv = tiny_model().model[2].conv
    model.model[2].bn = nn.BatchNorm2d(1)
    torch.save({"model": model}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"cannot look at a picture"):
        attempt_load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "changes",
    [{"head": 5}, {"head": []}, {"head": [[]]}, {"head": [[-1, 1, "Detect", []]]}, {"head": [None]}, {"backbone": None},
     {"nc": None, "backbone": 5}, {"channels": {"model.0.conv": [10**9, 10**9]}}, {"depth_multiple": "x"}],
    ids=repr,
)  # fmt: skip
def test_configurations_that_are_none(tmp_path, changes):
    model = tiny_model()
    model.yaml.update(changes)
    with pytest.raises(ValueError, match=r"model\.pt is not the one of its configuration"):
        describe_file(model, tmp_path / "model.pt")


@pytest.mark.parametrize("fitness", [[[1], [2, 3]], ["x"], [None], [], [[]]], ids=repr)
def test_fitness_of_another_form(tmp_path, fitness):
    model = tiny_model()
    vars(model.model[0])["anchor_grid"] = [1]  # which Detect alone has
    model.names = []
    torch.save({"model": model, "best_fitness": fitness}, tmp_path / "model.pt")
    assert load_checkpoint(tmp_path / "model.pt")["model"].names == []  # those of a data set may be taken
    strip_optimizer(tmp_path / "model.pt", tmp_path / "stripped.pt")
    assert load_checkpoint(tmp_path / "stripped.pt")["best_fitness"] is None


def test_weights_have_numbers_of_their_own(tmp_path):
    """Two parameters may lie over each other in a file; pruning sets channels of one to zero in place."""
    model, numbers = tiny_model(), torch.randn(33)
    first, second = (model.model[1].get_submodule(f"cv{part}.conv")._parameters for part in (1, 2))
    first["weight"] = nn.Parameter(numbers[:32].view(4, 8, 1, 1))
    second["weight"] = nn.Parameter(numbers[1:].view(4, 8, 1, 1))
    torch.save({"model": model}, tmp_path / "model.pt")
    block = load_checkpoint(tmp_path / "model.pt")["model"].model[1]
    block.cv1.conv.weight.data.zero_()
    assert torch.equal(block.cv2.conv.weight.flatten(), numbers[1:])
