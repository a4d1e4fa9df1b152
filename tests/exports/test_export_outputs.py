"""Exports of stock and pruned detectors compute what the checkpoints do."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import pytest
import torch

import export
from models.backends import DetectMultiBackend
from models.exporters.to_ncnn import complaints
from models.metadata import parse_metadata
from models.yolo import DetectionModel
from tests.exports.helpers import RUNNABLE, SIZE, needs, outputs
from utils.checkpoint import save_checkpoint
from utils.errors import InputError


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


@pytest.mark.parametrize("argument", ["torchscript", "onnx"])
def test_exports_of_fewer_levels_and_blocks(exported, reduced, argument):
    path = exported("reduced", argument)
    images = torch.rand(2, 3, SIZE, SIZE)
    found, expected = outputs(path, reduced, images)
    assert found.shape == expected.shape == (2, 3 * (8**2 + 4**2), 7)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


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
    with pytest.raises(InputError, match=r"opset 12 cannot hold .*scaled_dot.*model\.1.* from opset 14 on: choose"):
        export.run(opset=12, **how)
    assert [path.name for path in tmp_path.iterdir()] == ["attention.pt"]
    export.run(opset=17, **how)


def test_an_operator_that_no_opset_has(tmp_path, tiny_dataset, capfd):
    needs("onnx")
    rows = [[-1, 1, "Conv", [8, 3, 8]], [-1, 1, "nn.ChannelShuffle", [2]], [[1], 1, "Detect", ["nc", "anchors"]]]
    config = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30]]}
    model = DetectionModel({**config, "backbone": rows[:2], "head": rows[2:]})
    save_checkpoint({"model": model}, tmp_path / "shuffle.pt")
    how = {"weights": str(tmp_path / "shuffle.pt"), "imgsz": SIZE, "data": str(tiny_dataset)}
    message = r"operator aten::channel_shuffle, computed by model\.1 \(ChannelShuffle\),.* --include torchscript"
    with pytest.raises(InputError, match=message):
        export.run(include=["onnx"], **how)
    assert "graph" not in capfd.readouterr().out
    export.run(include=["torchscript"], **how)


def test_ncnn_of_a_relative_path(tmp_path, tiny_dataset, monkeypatch):
    needs("ncnn")
    model = DetectionModel({
        "nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30]],
        "backbone": [[-1, 1, "Conv", [8, 3, 8]]], "head": [[[0], 1, "Detect", ["nc", "anchors"]]],
    })  # fmt: skip
    save_checkpoint({"model": model}, tmp_path / "small.pt")
    monkeypatch.chdir(tmp_path)
    export.run(weights="small.pt", include=["ncnn"], imgsz=SIZE, data=str(tiny_dataset))
    assert (tmp_path / "small_ncnn_model/model.ncnn.bin").is_file()


def test_what_a_converter_complains_of_is_quoted():
    output = "pnnxparam = rest\nfopen .small/model.ncnn.param failed\n\nfloat ops = 3M\nmemory OPS = 2.687M\n"
    assert complaints(output) == "fopen .small/model.ncnn.param failed"
    assert complaints("one\ntwo\nthree\nfour") == "two; three; four"
    assert complaints("\n") == "it printed nothing" and len(complaints("error " * 200)) == 300


def test_a_simplified_graph_is_smaller_and_computes_the_same(exported, pruned):
    pytest.importorskip("onnxslim")
    onnx = pytest.importorskip("onnx")
    path = exported("pruned", "onnx", simplify=True, dynamic=True)
    assert len(onnx.load(path).graph.node) < len(onnx.load(exported("pruned", "onnx", dynamic=True)).graph.node)
    found, expected = outputs(path, pruned, torch.rand(2, 3, 96, SIZE))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


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


def test_activations_of_the_checkpoint_are_those_of_the_graph(tmp_path, tiny_dataset):
    needs("onnx")
    rows = [[-1, 1, "Conv", [8, 3, 8]], [-1, 2, "C3", [8]], [[1], 1, "Detect", ["nc", "anchors"]]]
    model = DetectionModel({
        "nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30]], "backbone": rows[:2],
        "head": rows[2:], "activation": "nn.LeakyReLU(0.1)", "modules": {"model.1.cv3.act": "nn.Hardswish()"},
    })  # fmt: skip
    save_checkpoint({"model": model}, tmp_path / "leaky.pt")
    how = {"weights": str(tmp_path / "leaky.pt"), "include": ["onnx"], "imgsz": SIZE, "data": str(tiny_dataset)}
    graph = import_module("onnx").load(export.run(**how)[0]).graph
    kinds = {node.name.rpartition("/")[0]: node.op_type for node in graph.node if "/act/" in node.name}
    assert kinds.pop("/model.1/cv3/act") == "HardSwish"
    assert set(kinds.values()) == {"LeakyRelu"} and len(kinds) == 7
