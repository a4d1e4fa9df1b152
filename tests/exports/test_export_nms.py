"""NMS inside the graph finds what NMS outside finds."""

from __future__ import annotations

import pytest
import torch

import detect
import val
from models.backends import DetectMultiBackend
from models.exporters.agreement import agreement
from models.exporters.images import ImageBatches, choose_files
from models.exporters.options import NmsSettings
from utils.errors import InputError
from utils.geometry.nms import non_max_suppression


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


def test_val_scores_a_file_with_nms_as_the_checkpoint_at_its_thresholds(exported, stock, tiny_dataset, tmp_path):
    how = {"device": "cpu", "workers": 0, "plots": False, "save_dir": tmp_path, "conf_thres": 0.25, "iou_thres": 0.45}
    found, _, _ = val.run(str(tiny_dataset), str(exported("stock", "onnx", nms=True, dynamic=True)), imgsz=128, **how)
    expected, _, _ = val.run(str(tiny_dataset), str(stock), imgsz=128, **how)
    assert expected[2] > 0.3 and found[:4] == pytest.approx(expected[:4], abs=0.002)
