"""export.py --raw-heads: the maps of the head before the sigmoid, under the names that compilers of chips are given."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import detect
import export
import val
from models.backends import DetectMultiBackend
from models.exporters.options import ExportOptions
from models.loading import attempt_load
from models.metadata import parse_metadata
from tests.colour_detector import colour_detector
from tests.exports.helpers import SIZE, outputs
from utils.checkpoint import save_checkpoint
from utils.errors import CheckpointError, InputError

LEVELS = range(3)
NODES = [f"/model.24/m.{level}/Conv" for level in LEVELS]
TENSORS = [f"{node}_output_0" for node in NODES]


def test_the_maps_are_those_of_the_checkpoint(exported, pruned):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = exported("pruned", "onnx", raw_heads=True)
    assert path.name == "pruned_raw.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.rand(1, 3, SIZE, SIZE)
    maps = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = attempt_load(pruned)(images)[1]  # (B, na, ny, nx, no) each
    assert len(maps) == len(expected) == 3
    for values, level in zip(maps, expected, strict=True):
        assert values.shape == (1, 3 * 7, *level.shape[2:4])
        np.testing.assert_allclose(values, level.permute(0, 1, 4, 2, 3).flatten(1, 2).numpy(), atol=1e-4)
    assert [output.name for output in session.get_outputs()] == TENSORS


@pytest.mark.parametrize("flags", [{}, {"nms": True}, {"raw_heads": True}, {"raw_heads": True, "simplify": True}])
def test_nodes_have_the_names_of_stock_exports(exported, flags):
    onnx = pytest.importorskip("onnx")
    if flags.get("simplify"):
        pytest.importorskip("onnxslim")
    graph = onnx.load(exported("pruned", "onnx", **flags)).graph
    convolutions = {node.name: node.output[0] for node in graph.node if node.op_type == "Conv"}
    assert {node: convolutions[node] for node in NODES} == dict(zip(NODES, TENSORS, strict=True))
    assert "/model.0/conv/Conv" in convolutions
    assert not [node.name for node in graph.node if "network" in node.name]


@pytest.mark.parametrize("how", [{}, {"dnn": True}])
def test_the_file_runs_like_any_other(exported, pruned, how):
    path = exported("pruned", "onnx", raw_heads=True)
    found, expected = outputs(path, pruned, torch.rand(2, 3, SIZE, SIZE), **how)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


def test_sizes_and_batches_of_a_dynamic_file(exported, pruned):
    path = exported("pruned", "onnx", raw_heads=True, dynamic=True)
    for shape in ((1, 3, 64, 64), (2, 3, 96, 32)):
        found, expected = outputs(path, pruned, torch.rand(shape))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


def test_half_precision(exported, pruned):
    path = exported("pruned", "onnx", raw_heads=True, half=True)
    found, expected = outputs(path, pruned, torch.rand(1, 3, SIZE, SIZE), fp16=True)
    assert found.dtype == torch.float32
    assert 0 < (found[..., 4:] - expected[..., 4:]).abs().max() < 0.1


def test_int8_keeps_the_maps_in_float(exported):
    onnx = pytest.importorskip("onnx")
    path = exported("stock", "onnx", raw_heads=True, int8=True, calibration_images=2)
    assert path.name == "stock_raw_int8.onnx"
    graph = onnx.load(path).graph
    assert [output.type.tensor_type.elem_type for output in graph.output] == [onnx.TensorProto.FLOAT] * 2
    assert "QuantizeLinear" in {node.op_type for node in graph.node}


def test_the_file_says_what_a_decoder_needs(exported, stock):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("stock", "onnx", raw_heads=True))
    texts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    expected = [[[16, 16], [28, 28], [40, 40]], [[64, 64], [80, 80], [96, 96]]]
    np.testing.assert_allclose(texts["anchors"], expected, rtol=1e-3)  # checkpoints hold them in FP16
    assert texts["strides"] == attempt_load(stock).model[-1].stride.tolist()
    assert (texts["names"], texts["stride"], texts["imgsz"]) == (["disc", "square"], 32, [128, 128])
    plain = onnx.load(exported("stock", "onnx"))
    texts = {entry.key: json.loads(entry.value) for entry in plain.metadata_props}
    assert texts["anchors"] is None and texts["strides"] is None


def test_val_and_detect_find_what_they_find_with_the_plain_file(exported, tiny_dataset, tmp_path):
    scores, labels = [], []
    for flags in ({}, {"raw_heads": True}):
        path = exported("stock", "onnx", **flags)
        scores.append(val.run(str(tiny_dataset), str(path), batch_size=1, workers=0, project=str(tmp_path))[0])
        folder = detect.run(
            weights=str(path), source=str(tiny_dataset.parent / "images/val"), project=str(tmp_path), save_txt=True,
            nosave=True, conf_thres=0.1,
        )  # fmt: skip
        labels.append({file.name: np.loadtxt(file, ndmin=2) for file in (folder / "labels").iterdir()})
    assert scores[0] == pytest.approx(scores[1], abs=1e-4) and scores[0][2] > 0.1
    assert labels[0].keys() == labels[1].keys()
    for name, rows in labels[0].items():
        np.testing.assert_allclose(labels[1][name], rows, atol=1e-4)


def test_fewer_maps_than_anchors(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("stock", "onnx", raw_heads=True))
    del model.graph.output[1]
    onnx.save(model, tmp_path / "cut.onnx")
    with pytest.raises(InputError, match="it gives 1 maps, but has anchors for 2: export it again"):
        DetectMultiBackend(tmp_path / "cut.onnx")(torch.zeros(1, 3, 128, 128))


GOOD = {"names": ["disc"], "stride": 32, "imgsz": [64, 64]}
ANCHORS = [[[10, 13], [16, 30]], [[30, 61], [62, 45]]]


@pytest.mark.parametrize(
    "anchors, strides, named",
    [
        (ANCHORS, None, "strides"), (ANCHORS, [8], "strides"), (ANCHORS, [8, 0], "strides"), (None, [8], "strides"),
        (ANCHORS, 8, "strides"), ([], [], "anchors"), ([[[1, 2]], []], [8, 16], "anchors"), ("x", [8], "anchors"),
        ([[[1, 2, 3]]], [8], "anchors"), ([[[1, "2"]]], [8], "anchors"), ([[1, 2]], [8], "anchors"),
        ([[[1, -2]]], [8], "anchors"), ([[]], [8], "anchors"),
    ],
)  # fmt: skip
def test_anchors_that_cannot_be(anchors, strides, named):
    assert parse_metadata(json.dumps(GOOD | {"anchors": ANCHORS, "strides": [8, 16]}), "a.onnx").strides == [8, 16]
    with pytest.raises(InputError, match=f"a.onnx: its metadata entry '{named}' is .*: export it again"):
        parse_metadata(json.dumps(GOOD | {"anchors": anchors, "strides": strides}), "a.onnx")


def test_what_it_cannot_be_combined_with():
    with pytest.raises(InputError, match="--raw-heads and --nms contradict each other, as NMS needs boxes"):
        ExportOptions(include=["onnx"], raw_heads=True, nms=True)
    with pytest.raises(InputError, match="--raw-heads is not possible with --include openvino: possible with onnx"):
        ExportOptions(include=["onnx", "openvino"], raw_heads=True)


def test_a_model_without_a_head(tmp_path):
    model = colour_detector()
    layer = nn.Identity()
    vars(layer).update(i=2, f=1, type="torch.nn.Identity")
    model.model[-1] = layer
    save_checkpoint({"model": model}, tmp_path / "headless.pt")
    with pytest.raises(CheckpointError, match=r"headless\.pt .*its last layer, and no other, must be Detect"):
        export.run(weights=str(tmp_path / "headless.pt"), include=["onnx"], raw_heads=True)
