"""Exports of stock and pruned detectors: what the files compute, what they say about themselves, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import torch

import detect
import export
import val
from models.backends import DetectMultiBackend
from models.backends.runtime import Runtime
from models.experimental import attempt_load
from models.exporters import ExportJob, GraphSettings, exporter, to_onnx, verify
from models.exporters.agreement import agreement
from models.exporters.checkpoint import other_size
from models.exporters.graph import ExportModel
from models.exporters.graph_nms import NmsSettings
from models.exporters.images import ImageBatches, choose_files
from models.formats import FORMATS, format_of
from models.metadata import Metadata, parse_metadata
from models.yolo import DetectionModel
from prune_tools.groups import find_groups, select_groups
from prune_tools.yolo_pruned import prune_model
from tests.colour_detector import save_colour_detector, save_pruned_colour_detector
from tests.pruning_networks import random_plan, thin
from utils.checkpoint import save_checkpoint
from utils.checks import check_dataset
from utils.config import parse
from utils.errors import InputError, MissingFileError
from utils.files import ROOT, read_yaml, write_yaml
from utils.log import LOGGER
from utils.nms import non_max_suppression

SIZE = 64
RUNNABLE = ("torchscript", "onnx", "openvino", "ncnn", "tflite")


def needs(*arguments: str) -> None:
    """Skip the test where a library of one of these formats is missing."""
    for kind in FORMATS:
        for module, package in kind.packages if kind.argument in arguments else ():
            if find_spec(module) is None:
                pytest.skip(f"{package} is not installed")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random images every time."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    """The checkpoint of the detector that finds discs and squares by their colours."""
    return save_colour_detector(tmp_path_factory.mktemp("stock") / "stock.pt")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory) -> Path:
    """The checkpoint of a pruned detector of random widths."""
    model = thin("yolov5n")
    groups = select_groups(find_groups(model), "all")
    prune_model(model, groups, random_plan(groups))
    model.names = ["disc", "square"]
    path = tmp_path_factory.mktemp("pruned") / "pruned.pt"
    save_checkpoint({"epoch": -1, "model": model.float(), "ema": None, "optimizer": None}, path)
    return path


@pytest.fixture(scope="module")
def pruned_colours(tmp_path_factory) -> Path:
    """The checkpoint of the detector by colours, pruned."""
    return save_pruned_colour_detector(tmp_path_factory.mktemp("pruned_colours") / "pruned_colours.pt")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_dataset, stock, pruned, pruned_colours):
    """A function (checkpoint, format, flags) -> the exported file; the same export is made once."""
    made: dict[tuple, Path] = {}
    checkpoints = {"stock": stock, "pruned": pruned, "pruned_colours": pruned_colours}

    def make(which: str, argument: str, **flags) -> Path:
        key = (which, argument, *sorted(flags.items()))
        if key not in made:
            needs(argument)
            folder = tmp_path_factory.mktemp(f"{which}-{argument}")
            weights = folder / f"{which}.pt"
            weights.symlink_to(checkpoints[which])
            options = {"imgsz": SIZE if which == "pruned" else 128, "data": str(tiny_dataset)} | flags
            (made[key],) = export.run(weights=str(weights), include=[argument], **options)
            assert sorted(path.name for path in folder.iterdir()) == sorted([weights.name, made[key].name])
        return made[key]

    return make


def outputs(path: Path, weights: Path, images: torch.Tensor, **how) -> tuple[torch.Tensor, torch.Tensor]:
    """What an export and its checkpoint give for the same images."""
    with torch.no_grad():
        return DetectMultiBackend(path, **how)(images)[0], DetectMultiBackend(weights)(images)[0]


@pytest.mark.parametrize("argument", RUNNABLE)
@pytest.mark.parametrize("which", ["stock", "pruned"])
def test_exports_compute_what_the_checkpoint_does(exported, stock, pruned, which, argument):
    if argument == "tflite" and which == "stock":
        pytest.skip("the conversion takes long: the pruned one is tested")
    path = exported(which, argument)
    size = 128 if which == "stock" else SIZE
    images = torch.rand(3, 3, size, size)  # more than the file's batch of one
    found, expected = outputs(path, {"stock": stock, "pruned": pruned}[which], images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    backend = DetectMultiBackend(path)
    again = backend(images.to(memory_format=torch.channels_last))[0]  # as validation has them
    torch.testing.assert_close(again, expected, rtol=1e-3, atol=1e-3)
    assert (backend.names, backend.stride, backend.fixed_size) == ({0: "disc", 1: "square"}, 32, (size, size))
    assert (backend.pt, backend.fp16, backend.nms) == (False, False, None)


@pytest.mark.parametrize("argument", ["torchscript", "onnx", "openvino"])
def test_dynamic_exports_take_any_shape(exported, pruned, argument):
    path = exported("pruned", argument, dynamic=True)
    backend, checkpoint = DetectMultiBackend(path), DetectMultiBackend(pruned)
    for shape in ((1, 3, 64, 64), (2, 3, 96, 32), (3, 3, 64, 128)):
        images = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(backend(images)[0], checkpoint(images)[0], rtol=1e-3, atol=1e-3)
    assert backend.fixed_size is None


def test_opencv_runs_onnx(exported, pruned):
    found, expected = outputs(exported("pruned", "onnx"), pruned, torch.rand(2, 3, SIZE, SIZE), dnn=True)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


def test_batches_of_a_fixed_number_are_filled_up(exported, pruned):
    path = exported("pruned", "onnx", batch_size=2)
    for count in (1, 2, 5):
        found, expected = outputs(path, pruned, torch.rand(count, 3, SIZE, SIZE))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("argument", ["torchscript", "onnx", "openvino"])
def test_half_precision(exported, pruned, argument):
    path = exported("pruned", argument, half=True)
    found, expected = outputs(path, pruned, torch.rand(1, 3, SIZE, SIZE), fp16=True)
    assert found.dtype == torch.float32  # boxes are decoded in full precision
    assert (found[..., 4:] - expected[..., 4:]).abs().max() < 0.1
    assert not torch.equal(found, expected)
    content = path / f"{path.name.removesuffix('_openvino_model')}.bin" if path.is_dir() else path
    whole = exported("pruned", argument)
    whole = whole / content.name if whole.is_dir() else whole
    assert content.stat().st_size < 0.8 * whole.stat().st_size


@pytest.mark.parametrize("opset", [12, 17, 20])
def test_onnx_has_the_opset_and_says_what_it_is(exported, opset):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("pruned", "onnx", opset=opset))
    assert [entry.version for entry in model.opset_import if not entry.domain] == [opset]
    texts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert (texts["names"], texts["stride"], texts["imgsz"]) == (["disc", "square"], 32, [SIZE, SIZE])
    assert (texts["task"], texts["batch"], texts["dynamic"], texts["weights"]) == ("detect", 1, False, "pruned.pt")
    assert torch.__version__ in texts["made_by"]
    assert [entry.name for entry in [*model.graph.input, *model.graph.output]] == ["images", "output"]


def test_an_opset_that_lacks_an_operator(tmp_path, tiny_dataset):
    needs("onnx")
    rows = [[-1, 1, "Conv", [8, 3, 8]], [-1, 1, "C3TR", [8]], [[1], 1, "Detect", ["nc", "anchors"]]]
    config = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30]]}
    model = DetectionModel({**config, "backbone": rows[:2], "head": rows[2:]})
    save_checkpoint({"model": model}, tmp_path / "attention.pt")
    how = {"weights": str(tmp_path / "attention.pt"), "include": ["onnx"], "imgsz": SIZE, "data": str(tiny_dataset)}
    with pytest.raises(InputError, match=r"ONNX opset 12 cannot hold this network \(.*scaled_dot.*: choose a newer"):
        export.run(opset=12, **how)
    assert [path.name for path in tmp_path.iterdir()] == ["attention.pt"]
    export.run(opset=17, **how)


def test_a_simplified_graph_is_smaller_and_computes_the_same(exported, pruned):
    pytest.importorskip("onnxslim")
    onnx = pytest.importorskip("onnx")
    path = exported("pruned", "onnx", simplify=True, dynamic=True)
    assert len(onnx.load(path).graph.node) < len(onnx.load(exported("pruned", "onnx", dynamic=True)).graph.node)
    found, expected = outputs(path, pruned, torch.rand(2, 3, 96, SIZE))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("argument", ["onnx", "openvino"])
def test_nms_in_a_dynamic_graph(exported, stock, argument):
    path = exported("stock", argument, nms=True, dynamic=True, conf_thres=0.02, topk_all=800)
    for shape in ((2, 3, 64, 96), (1, 3, 128, 64)):
        images = torch.rand(shape)
        backend = DetectMultiBackend(path)
        assert backend.runtime(images).shape == (shape[0], 800, 6)  # also where there are fewer boxes
        found = non_max_suppression(backend(images), 0.02, 0.45)
        with torch.no_grad():
            wanted = non_max_suppression(DetectMultiBackend(stock)(images), 0.02, 0.45)
        for rows, expected in zip(found, wanted, strict=True):
            assert len(expected) > 2
            torch.testing.assert_close(rows, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "which, argument, agnostic, per_class, total",
    [
        ("stock", "onnx", False, 100, 100), ("stock", "onnx", True, 100, 7), ("stock", "onnx", False, 3, 100),
        ("stock", "openvino", False, 100, 100), ("pruned_colours", "onnx", False, 100, 100),
        ("pruned_colours", "openvino", False, 100, 100),
    ],
)  # fmt: skip
def test_nms_in_the_graph_finds_what_nms_outside_finds(
    exported, stock, pruned_colours, which, argument, agnostic, per_class, total
):
    checkpoint = stock if which == "stock" else pruned_colours
    thresholds = {"conf_thres": 0.02, "iou_thres": 0.3}
    path = exported(which, argument, nms=True, agnostic_nms=agnostic, topk_per_class=per_class, topk_all=total,
                    **thresholds)  # fmt: skip
    images = torch.rand(2, 3, 128, 128)  # no two boxes score the same
    backend = DetectMultiBackend(path)
    assert backend.nms["iou_thres"] == 0.3
    rows = torch.cat([backend.runtime(image[None]) for image in images])
    assert rows.shape == (2, total, 6)
    with torch.no_grad():
        predictions = DetectMultiBackend(checkpoint)(images)
    wanted = non_max_suppression(predictions, 0.02, 0.3, agnostic=agnostic, max_det=9999)
    read_back = non_max_suppression(backend(images), 0.02, 0.3, agnostic=agnostic, max_det=9999)
    for given, expected, again in zip(rows, wanted, read_back, strict=True):
        if per_class < 100:
            expected = torch.cat([expected[expected[:, 5] == kind][:per_class] for kind in (0, 1)])
            expected = expected[expected[:, 4].argsort(descending=True)]
        expected = expected[:total]
        assert len(expected) > 2
        torch.testing.assert_close(given[: len(expected)], expected, rtol=1e-3, atol=1e-3)
        assert not given[len(expected) :].any()
        torch.testing.assert_close(again, expected, rtol=1e-3, atol=1e-3)


def test_the_graph_with_nms_declares_its_output(exported):
    onnx = pytest.importorskip("onnx")
    fixed = {"agnostic_nms": False, "topk_per_class": 100, "topk_all": 100, "conf_thres": 0.02, "iou_thres": 0.3}
    dynamic = {"dynamic": True, "conf_thres": 0.02, "topk_all": 800}
    for flags, shape in ((fixed, [1, 100, 6]), (dynamic, ["batch", 800, 6])):
        (output,) = onnx.load(exported("stock", "onnx", nms=True, **flags)).graph.output
        sides = output.type.tensor_type.shape.dim
        assert output.name == "detections" and [side.dim_param or side.dim_value for side in sides] == shape


@pytest.mark.parametrize("argument", ["onnx", "openvino"])
def test_nms_in_a_graph_of_half_precision(exported, stock, tiny_dataset, argument):
    path = exported("stock", argument, nms=True, half=True)
    backend, checkpoint = DetectMultiBackend(path), DetectMultiBackend(stock)
    assert backend.nms and backend.runtime.metadata.half
    files = choose_files(str(tiny_dataset), "val", 4)
    result = agreement(backend, lambda x: checkpoint(x)[0], ImageBatches(files, (128, 128)), NmsSettings())
    assert result.boxes > 20 and result.share > 0.9


def test_thresholds_that_nms_inside_cannot_honour(exported, tiny_dataset):
    path = exported("stock", "onnx", nms=True, agnostic_nms=False, topk_per_class=100, topk_all=100, conf_thres=0.02,
                    iou_thres=0.3)  # fmt: skip
    with pytest.raises(InputError, match=r"applies NMS itself, with --conf-thres 0\.02 --iou-thres 0\.3"):
        val.run(str(tiny_dataset), str(path), device="cpu", plots=False)
    with pytest.raises(InputError, match=r"0\.01 and 0\.2 are asked for"):
        detect.run(weights=str(path), source=str(tiny_dataset.parent / "images/val"), conf_thres=0.01, iou_thres=0.2)


@pytest.mark.parametrize("argument", ["torchscript", "onnx", "openvino"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_val_scores_an_export_as_the_checkpoint(exported, stock, tiny_dataset, tmp_path, argument, dynamic):
    how = {"device": "cpu", "workers": 0, "plots": False, "save_dir": tmp_path, "batch_size": 3}
    path = exported("stock", argument, **({"dynamic": True} if dynamic else {}))
    found, by_class, _ = val.run(str(tiny_dataset), str(path), **how)
    expected = checkpoint_scores(stock, tiny_dataset, 128, square=not dynamic, **how)
    assert expected[2] > 0.5 and expected[3] > 0.1
    assert found[:4] == pytest.approx(expected[:4], abs=0.002)
    assert len(by_class) == 2


def checkpoint_scores(weights: Path, data: Path, size: int, square: bool, **how) -> tuple[float, ...]:
    """What val.py gives for a checkpoint; ``square``: on the images that a file of a fixed size gets."""
    if not square:
        return val.run(str(data), str(weights), imgsz=size, **how)[0]
    options = val.ValOptions(data=str(data), weights=[str(weights)], batch_size=how["batch_size"], workers=0)
    loader = val.make_loader(options, check_dataset(str(data)), size, 32, square=True)
    return val.run(str(data), str(weights), imgsz=size, dataloader=loader, **how)[0]


def test_val_scores_a_pruned_export_as_the_checkpoint(exported, pruned_colours, tiny_dataset, tmp_path):
    how = {"device": "cpu", "workers": 0, "plots": False, "save_dir": tmp_path, "batch_size": 3}
    found, _, _ = val.run(str(tiny_dataset), str(exported("pruned_colours", "onnx", imgsz=128)), **how)
    expected = checkpoint_scores(pruned_colours, tiny_dataset, 128, square=True, **how)
    assert expected[2] > 0.5 and found[:4] == pytest.approx(expected[:4], abs=0.002)


def test_val_scores_a_file_with_nms_as_the_checkpoint_at_its_thresholds(exported, stock, tiny_dataset, tmp_path):
    how = {"device": "cpu", "workers": 0, "plots": False, "save_dir": tmp_path, "conf_thres": 0.25, "iou_thres": 0.45}
    found, _, _ = val.run(str(tiny_dataset), str(exported("stock", "onnx", nms=True, dynamic=True)), imgsz=128, **how)
    expected, _, _ = val.run(str(tiny_dataset), str(stock), imgsz=128, **how)
    assert expected[2] > 0.3 and found[:4] == pytest.approx(expected[:4], abs=0.002)


def test_detect_finds_the_same_boxes(exported, stock, tiny_dataset, tmp_path):
    found = {}
    for name, weights, more in (("pt", stock, {"imgsz": 128}), ("onnx", exported("stock", "onnx"), {}),
                                ("dnn", exported("stock", "onnx"), {"dnn": True, "imgsz": [128]})):  # fmt: skip
        folder = detect.run(
            weights=str(weights), source=str(tiny_dataset.parent / "images/val"), project=str(tmp_path), name=name,
            save_txt=True, nosave=True, device="cpu", **more,
        )  # fmt: skip
        found[name] = {file.stem: np.loadtxt(file, ndmin=2) for file in sorted((folder / "labels").glob("*.txt"))}
    assert found["pt"]
    for other in ("onnx", "dnn"):
        assert found[other].keys() == found["pt"].keys()
        for stem, rows in found["pt"].items():
            np.testing.assert_allclose(found[other][stem], rows, atol=0.02)


def test_autoshape_takes_exports(exported, tiny_dataset):
    import hubconf

    pictures = sorted((tiny_dataset.parent / "images/val").glob("*.jpg"))
    for path in (exported("stock", "onnx"), exported("stock", "openvino")):
        model = hubconf.custom(str(path), _verbose=False, device="cpu")
        results = model([str(picture) for picture in pictures])
        assert results.s == (len(pictures), 3, 128, 128)
        assert sum(len(rows) for rows in results.xyxy) > 0
    with pytest.raises(InputError, match=r"128x128 pixels.*asks for 320x320"):
        model(str(pictures[0]), size=320)


def test_another_image_size_is_refused_by_name(exported, tiny_dataset, tmp_path):
    path = exported("pruned", "onnx")
    message = r"pruned\.onnx takes images of 64x64 pixels .* asks for 320x320: leave --imgsz out, or export"
    with pytest.raises(InputError, match=message):
        detect.run(weights=str(path), source=str(tiny_dataset.parent / "images/val"), imgsz=320, project=str(tmp_path))
    with pytest.raises(InputError, match=message):
        val.run(str(tiny_dataset), str(path), imgsz=320, save_dir=tmp_path)
    with pytest.raises(InputError, match=r"takes images of \(64, 64\), got \(32, 64\)"):
        DetectMultiBackend(path)(torch.zeros(1, 3, 32, 64))
    oblong = exported("pruned", "onnx", imgsz=(64, 96))
    with pytest.raises(InputError, match="64x96 pixels, and validation has square ones"):
        val.run(str(tiny_dataset), str(oblong), save_dir=tmp_path)


def test_what_only_checkpoints_can_do(exported, tiny_dataset, tmp_path):
    path = str(exported("pruned", "torchscript"))
    source = str(tiny_dataset.parent / "images/val")
    for flag in ("augment", "visualize", "update"):
        with pytest.raises(InputError, match=f"--{flag} needs a PyTorch checkpoint"):
            detect.run(weights=path, source=source, project=str(tmp_path), **{flag: True})
    with pytest.raises(InputError, match="computes in FP32: leave out --half"):
        detect.run(weights=path, source=source, project=str(tmp_path), half=True)
    with pytest.raises(InputError, match="an ensemble is made of checkpoints"):
        DetectMultiBackend([path, path])
    with pytest.raises(InputError, match="dnn runs ONNX files"):
        DetectMultiBackend(path, dnn=True)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.torchscript", "a.onnx", "a_openvino_model", "a.tflite", "a_ncnn_model"])
def test_missing_and_damaged_exports(tmp_path, name):
    with pytest.raises(MissingFileError, match=f"no such export: .*{name}"):
        DetectMultiBackend(tmp_path / name)
    needs(format_of(name).argument)
    if format_of(name).is_folder:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.json").write_text('{"names": ["x"], "stride": 32, "imgsz": [64, 64]}')
        for inside in ("model.xml", "model.ncnn.param", "model.ncnn.bin"):
            (tmp_path / name / inside).write_bytes(b"no model" * 9)
    else:
        (tmp_path / name).write_bytes(b"no model" * 99)
    with pytest.raises(InputError, match=r"damaged|metadata"):
        DetectMultiBackend(tmp_path / name)


def test_an_export_without_metadata(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("pruned", "onnx"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    for how in ({}, {"dnn": True}):
        with pytest.raises(InputError, match=r"bare\.onnx has no metadata \(class names, stride, image size\)"):
            DetectMultiBackend(tmp_path / "bare.onnx", **how)
    # As v6.2 writes them: the text of a Python list, and nothing else
    for key, value in (("names", "['it''s', 'b']"), ("stride", "32")):
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, tmp_path / "old.onnx")
    old = DetectMultiBackend(tmp_path / "old.onnx")
    assert (old.names, old.stride, old.fixed_size) == ({0: "its", 1: "b"}, 32, (SIZE, SIZE))
    model.metadata_props[0].value = "__import__('os').system('touch hacked')"
    onnx.save(model, tmp_path / "hostile.onnx")
    with pytest.raises(InputError, match="'names' cannot be read"):
        DetectMultiBackend(tmp_path / "hostile.onnx")


GOOD = {"names": ["disc", "square"], "stride": 32, "imgsz": [64, 64]}
NMS = {"conf_thres": 0.25, "iou_thres": 0.45, "agnostic": False, "topk_per_class": 100, "topk_all": 100}


@pytest.mark.parametrize(
    "entry, value",
    [
        ("names", {"a": "disc"}), ("names", []), ("names", 3), ("stride", "x"), ("stride", True), ("imgsz", [0, 64]),
        ("imgsz", "64"), ("batch", 0), ("dynamic", "yes"), ("half", 1), ("nms", {"x": 1}), ("nms", [1]),
        ("nms", NMS | {"conf_thres": "0.25"}), ("nms", NMS | {"topk_all": 0}), ("task", "segment"),
    ],
)  # fmt: skip
def test_damaged_metadata_are_named(entry, value):
    assert parse_metadata(json.dumps(GOOD | {"nms": NMS}), "a.onnx").nms == NMS
    with pytest.raises(InputError, match=f"a.onnx: its metadata entry '{entry}' is .*: export it again"):
        parse_metadata(json.dumps(GOOD | {entry: value}), "a.onnx")
    with pytest.raises(InputError, match=r"'imgsz' is None"):
        parse_metadata(json.dumps({"names": ["a"], "stride": 32, "shape": 7}), "a.onnx")


class Gives(Runtime):
    """A runtime whose file always gives the same."""

    def __init__(self, output: torch.Tensor, metadata: Metadata) -> None:
        self.output, self.metadata, self.device = output, metadata, torch.device("cpu")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The output."""
        return self.output


@pytest.fixture
def backend_that_gives(exported):
    """A function (output, nms) -> a backend of a file that gives it and names two classes."""

    def make(output: torch.Tensor, nms: dict | None = None) -> DetectMultiBackend:
        backend = DetectMultiBackend(exported("pruned", "torchscript"))
        backend.runtime = Gives(output, Metadata(["disc", "square"], 32, [SIZE, SIZE], nms=nms))
        return backend

    return make


def test_more_or_fewer_classes_than_names(backend_that_gives):
    images = torch.zeros(1, 3, SIZE, SIZE)
    for classes in (1, 3):
        backend = backend_that_gives(torch.zeros(1, 10, 5 + classes))
        with pytest.raises(InputError, match=rf"finds {classes} classes, but its metadata have the 2 names"):
            backend(images)
    with pytest.raises(InputError, match=r"finds 3 classes, but its metadata have the 2 names"):
        backend_that_gives(torch.tensor([[[0, 0, 9, 9, 0.5, 2.0]]]), NMS)(images)
    assert backend_that_gives(torch.zeros(1, 4, 6), NMS)(images)[0].shape == (1, 4, 7)


def test_limits_inside_are_told_when_they_are_reached(backend_that_gives, caplog):
    images = torch.zeros(1, 3, SIZE, SIZE)
    rows = torch.tensor([[[0, 0, 9, 9, 0.5, 0.0], [20, 0, 29, 9, 0.4, 0.0], [0, 0, 9, 9, 0.3, 1.0], [0] * 6]])
    for limits, told in (({}, False), ({"topk_all": 3}, True), ({"topk_per_class": 2}, True),
                         ({"topk_per_class": 3}, False), ({"topk_per_class": 3, "agnostic": True}, True)):  # fmt: skip
        caplog.clear()
        backend = backend_that_gives(rows, NMS | limits)
        backend(images)
        backend(images)
        assert caplog.text.count("has limits inside") == int(told), limits
    for given, asked, words in ((False, True, "within each class: leave out --agnostic-nms"),
                                (True, False, "across classes: give --agnostic-nms")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            backend_that_gives(rows, NMS | {"agnostic": given}).check_request(agnostic=asked)


REFUSED = [
    ("--include saved_model", "saved_model is not offered: .*use tflite"),
    ("--include tfjs", "tfjs is not offered: .*onnxruntime-web"),
    ("--include onnx ONNX", "names onnx twice"),
    ("--include banana", "banana is unknown: expected some of torchscript onnx"),
    ("--include torchscript --nms", "--nms is not possible with --include torchscript: possible with onnx openvino"),
    ("--include onnx ncnn --dynamic", "--dynamic is not possible with --include ncnn"),
    ("--include torchscript --opset 12", "--opset concerns onnx openvino engine, and none of them"),
    ("--include onnx --workspace 2", "--workspace concerns engine"),
    ("--include onnx --verbose", "--verbose concerns engine"),
    ("--include onnx --conf-thres 0.5", "--conf-thres only acts on NMS inside the graph: add --nms"),
    ("--include onnx --opset 9", "--opset 9 cannot be written: choose one of 11 to 20"),
    ("--include onnx --opset 30", "--opset 30 cannot be written"),
    ("--include onnx --nms --iou-thres 3", "--iou-thres must lie in"),
    ("--include ncnn --batch-size 2", "ncnn takes one image per call"),
    ("--imgsz 1 2 3", "--imgsz takes one or two"),
    ("--batch-size 0", "--batch-size must be at least 1"),
    ("--keras", "--keras is not possible"),
    ("--optimize", "--optimize is not possible"),
    ("--inplace", "--inplace is not possible"),
]


@pytest.mark.parametrize("words, message", REFUSED, ids=[words for words, _ in REFUSED])
def test_flags_that_cannot_be_honoured(words, message):
    with pytest.raises(InputError, match=message):
        parse(export.ExportOptions, "", words.split())


@pytest.mark.parametrize("argument, module", [("onnx", "onnx"), ("coreml", "coremltools"), ("ncnn", "pnnx")])
def test_a_missing_library_is_named_before_any_work(monkeypatch, argument, module):
    monkeypatch.setattr(export, "is_installed", lambda name: name != module)
    with pytest.raises(InputError, match=rf"--include {argument} needs .*: pip install {module} "):
        export.run(weights="nowhere.pt", include=[argument])


def test_an_engine_needs_a_gpu(monkeypatch, stock):
    monkeypatch.setattr(export, "is_installed", lambda name: True)
    with pytest.raises(InputError, match="--include engine builds on the GPU"):
        export.run(weights=str(stock), include=["engine"])
    engine = stock.with_suffix(".engine")
    engine.write_bytes(b"x")
    with pytest.raises(InputError, match="needs an NVIDIA GPU"):
        DetectMultiBackend(engine)


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_engine_is_built_from_the_graph(monkeypatch, tmp_path, pruned, dynamic):
    """With a stand-in for TensorRT, which no test machine has: what it is told, and what the file holds."""
    needs("onnx")
    onnx = pytest.importorskip("onnx")
    library = mock.MagicMock(__version__="10.0")
    library.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    builder, parser = library.Builder.return_value, library.OnnxParser.return_value
    builder.build_serialized_network.return_value = b"the engine"
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    metadata = Metadata(["disc", "square"], 32, [SIZE, SIZE], batch=4, dynamic=dynamic)
    model = ExportModel(attempt_load(pruned), (SIZE, SIZE), dynamic)
    job = ExportJob(model, torch.zeros(4, 3, SIZE, SIZE), tmp_path / "a.engine", metadata, GraphSettings(workspace=2))
    exporter("engine")(job)

    builder.create_network.assert_called_once_with(2)  # 1 << STRONGLY_TYPED
    graph = onnx.load_model_from_string(parser.parse.call_args.args[0])
    assert graph.graph.input[0].name == "images"
    config = builder.create_builder_config.return_value
    config.set_memory_pool_limit.assert_called_once_with(library.MemoryPoolType.WORKSPACE, 2 << 30)
    profile = builder.create_optimization_profile.return_value
    shapes = [mock.call("images", (1, 3, 32, 32), (2, 3, SIZE, SIZE), (4, 3, SIZE, SIZE))]
    assert profile.set_shape.mock_calls == (shapes if dynamic else [])
    content = (tmp_path / "a.engine").read_bytes()
    length = int.from_bytes(content[:4], "little")
    assert parse_metadata(content[4 : 4 + length], "a.engine") == metadata
    assert content[4 + length :] == b"the engine"

    parser.parse.return_value, parser.num_errors = False, 1
    with pytest.raises(InputError, match=r"TensorRT 10\.0 cannot read the ONNX graph"):
        exporter("engine")(job)


def test_an_engine_refuses_what_it_was_not_built_for(monkeypatch, tmp_path):
    """With a stand-in for TensorRT: larger images than those of the export, and shapes that the library refuses."""
    library = mock.MagicMock(__version__="10.0")
    library.TensorIOMode.INPUT = "input"
    engine = library.Runtime.return_value.deserialize_cuda_engine.return_value
    engine.num_io_tensors = 2
    engine.get_tensor_name.side_effect = ["images", "output"].__getitem__
    engine.get_tensor_mode.side_effect = {"images": "input", "output": "output"}.__getitem__
    engine.create_execution_context.return_value.set_input_shape.return_value = False
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    content = Metadata(["disc", "square"], 32, [SIZE, SIZE], batch=2, dynamic=True).to_json().encode()
    (tmp_path / "a.engine").write_bytes(len(content).to_bytes(4, "little") + content + b"the engine")
    backend = DetectMultiBackend(tmp_path / "a.engine", torch.device("cuda"))
    assert backend.image_size(None) == [SIZE, SIZE] and backend.image_size(32) == [32, 32]
    with pytest.raises(InputError, match=r"a\.engine takes images of at most 64x64 pixels .*, got 64x96: choose"):
        backend.image_size([64, 96])
    backend.device = torch.device("cpu")  # where the images of this test are
    with pytest.raises(InputError, match=r"takes images of at most 64x64 pixels"):
        backend(torch.zeros(1, 3, 96, SIZE))
    with pytest.raises(InputError, match=r"refused images of shape \(1, 3, 32, 64\): .* for at most \(2, 3, 64, 64\)"):
        backend(torch.zeros(1, 3, 32, SIZE))


def test_a_wrong_export_is_an_error_and_leaves_nothing(monkeypatch, tmp_path, pruned, tiny_dataset):
    needs("onnx")
    weights = tmp_path / "pruned.pt"
    weights.write_bytes(pruned.read_bytes())
    (tmp_path / "pruned.onnx").write_text("the old one")
    honest = to_onnx.onnx_model

    def off_by_a_little(job):
        with torch.no_grad():
            job.model.network.model[-1].offsets += 3
        return honest(job)

    monkeypatch.setattr(to_onnx, "onnx_model", off_by_a_little)
    with pytest.raises(InputError, match=r"ONNX export differs from the checkpoint by 3 pixels"):
        export.run(weights=str(weights), include=["onnx"], imgsz=SIZE, data=str(tiny_dataset))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pruned.onnx", "pruned.pt"]
    assert (tmp_path / "pruned.onnx").read_text() == "the old one"


def test_a_folder_is_replaced_as_a_whole(tmp_path, pruned, tiny_dataset):
    needs("openvino")
    weights = tmp_path / "pruned.pt"
    weights.write_bytes(pruned.read_bytes())
    (tmp_path / "pruned_openvino_model").mkdir()
    (tmp_path / "pruned_openvino_model" / "stale.xml").write_text("old")
    export.run(weights=str(weights), include=["openvino"], imgsz=SIZE, data=str(tiny_dataset))
    names = sorted(path.name for path in (tmp_path / "pruned_openvino_model").iterdir())
    assert names == ["metadata.json", "pruned.bin", "pruned.xml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pruned.pt", "pruned_openvino_model"]


def test_images_to_compare_on(tiny_dataset, tmp_path, monkeypatch, caplog):
    options = export.ExportOptions(data=str(tiny_dataset))
    (picture,) = export.comparison_files(options)
    assert Path(picture).parent == tiny_dataset.parent / "images/val"
    options.nms = True
    assert len(export.comparison_files(options)) == 4  # all that there are
    assert verify.example_image(Path(picture), (64, 96)).shape == (1, 3, 64, 96)
    generated = verify.example_image(None, (64, 96))
    assert generated.shape == (1, 3, 64, 96) and 0.05 < generated.std() < 0.4
    absent = {**read_yaml(tiny_dataset), "path": str(tmp_path / "absent")}
    write_yaml(tmp_path / "absent.yaml", absent)
    options.data = str(tmp_path / "absent.yaml")
    with pytest.raises(MissingFileError):
        export.comparison_files(options)
    monkeypatch.setattr(export, "DEFAULT_DATA", options.data)
    assert export.comparison_files(options) == []


def test_damaged_images_are_not_compared_on(blank_dataset, caplog):
    options = export.ExportOptions(data=str(blank_dataset))
    (picture,) = export.comparison_files(options)
    Path(picture).write_bytes(b"damaged")
    (other,) = export.comparison_files(options)
    assert other != picture and f"skipped: {picture}" in caplog.text
    for file in Path(picture).parent.iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"none of the val images of .* can be read"):
        export.comparison_files(options)


@pytest.fixture
def blank_dataset(tmp_path) -> Path:
    """The YAML of a data set of three grey images, with nothing to find."""
    (tmp_path / "blank").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"blank/{index}.png"), np.full((64, 64, 3), 120, np.uint8))
    write_yaml(tmp_path / "blank.yaml", {"path": str(tmp_path), "train": "blank", "val": "blank", "names": ["a", "b"]})
    return tmp_path / "blank.yaml"


class Times(torch.nn.Module):
    """A network whose output is multiplied by a number."""

    def __init__(self, network: torch.nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The product."""
        return self.network(images) * self.factor


def test_detections_are_compared_on_as_many_images_as_it_takes(monkeypatch, stock, tmp_path, blank_dataset, caplog):
    needs("onnx")
    honest = to_onnx.onnx_model

    def finds_nothing(job):
        job.model.model = Times(job.model.model, 0.0)
        return honest(job)

    monkeypatch.setattr(to_onnx, "onnx_model", finds_nothing)
    weights = tmp_path / "stock.pt"
    weights.write_bytes(stock.read_bytes())
    how = {"weights": str(weights), "include": ["onnx"], "imgsz": SIZE, "data": str(blank_dataset), "nms": True}
    (written,) = export.run(**how)  # there is nothing to find, and it says so
    assert "WARNING: the ONNX export is not judged: in 3 image(s) there are too few boxes" in caplog.text
    written.unlink()
    first, *_ = export.comparison_files(export.ExportOptions(data=str(blank_dataset)))
    last = next(file for file in sorted(Path(first).parent.iterdir()) if str(file) != first)
    square = np.full((64, 64, 3), 120, np.uint8)
    square[10:40, 10:40] = (220, 120, 40)
    cv2.imwrite(str(last), square)
    for conf_thres in (0.25, 0.8):
        with pytest.raises(InputError, match="ONNX export differs from the checkpoint by inf pixels"):
            export.run(conf_thres=conf_thres, **how)
    monkeypatch.setattr(to_onnx, "onnx_model", honest)
    caplog.clear()
    export.run(conf_thres=0.8, **how)
    assert "not judged" not in caplog.text


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (64, 32), (64, 64), (320, 320), (96, 160)])
def test_dynamic_files_are_compared_at_a_truly_other_size(size):
    height, width = other_size(size, 32)
    assert (height, width) != size and height != width and height % 32 == width % 32 == 0
    within = other_size(size, 32, at_most=size)
    if within is None:
        assert size == (32, 32)
    else:
        assert within != size and within[0] <= size[0] and within[1] <= size[1]


def test_coreml_converts(exported):
    path = exported("pruned", "coreml")
    model = import_module("coremltools").models.MLModel(str(path), skip_model_load=True)
    assert parse_metadata(model.user_defined_metadata["yolov5_prune"], path).names == ["disc", "square"]
    (image,), (output,) = model.get_spec().description.input, model.get_spec().description.output
    assert (image.name, image.type.imageType.width, image.type.imageType.height) == ("image", SIZE, SIZE)
    assert (output.name, list(output.type.multiArrayType.shape)) == ("output", [1, 3 * (64 + 16 + 4), 7])
    if sys.platform != "darwin":
        with pytest.raises(InputError, match="macOS and iOS only"):
            DetectMultiBackend(path)


def test_the_command_says_what_it_made_and_what_comes_next(stock, tmp_path, tiny_dataset, caplog):
    needs("onnx")
    weights = tmp_path / "my detector.pt"
    weights.write_bytes(stock.read_bytes())
    LOGGER.setLevel("INFO")
    how = {"include": ["torchscript", "onnx"], "imgsz": 64, "data": str(tiny_dataset), "nms": False}
    files = export.run(weights=str(weights), **how)
    assert files == [tmp_path / "my detector.torchscript", tmp_path / "my detector.onnx"]
    assert caplog.text.count("largest difference from PyTorch: ") == 2
    assert f"Exports saved to {tmp_path}" in caplog.text
    for file in files:
        assert f"python detect.py --weights '{file}' --source" in caplog.text
        assert f"python val.py --weights '{file}' --data {tiny_dataset}\n" in caplog.text
    export.run(weights=str(weights), **{**how, "include": ["onnx"], "nms": True, "conf_thres": 0.3})
    assert "--conf-thres 0.3 --iou-thres 0.45" in caplog.text
    caplog.clear()
    export.report([tmp_path / "a.onnx", tmp_path / "a.mlpackage"], export.ExportOptions())
    assert "val.py --weights " in caplog.text and "--data <data set YAML>" in caplog.text
    if sys.platform != "darwin":
        assert f"--weights {tmp_path / 'a.mlpackage'}" not in caplog.text and caplog.text.count("torch.hub.load") == 1


def test_the_table_of_formats():
    table = export.export_formats()
    assert list(table.columns) == ["Format", "Argument", "Suffix", "CPU", "GPU"]
    rows = {row.Argument: row.Suffix for row in table.itertuples()}
    assert rows["-"] == ".pt" and rows["openvino"] == "_openvino_model" and rows["engine"] == ".engine"
    for argument, suffix in rows.items():
        assert format_of(f"some/best{suffix}").argument == argument
    assert format_of("best_openvino_model/best.xml").argument == "openvino"


def test_telemetry_stays_out():
    script = "import sys\nfrom utils.packages import require\nrequire('json', 'x')\nimport openvino_telemetry"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in done.stderr and "None in sys.modules" in done.stderr
