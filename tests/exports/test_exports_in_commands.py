"""val.py, detect.py and autoshape on exported files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import detect
import val
from models.backends import DetectMultiBackend
from tests.exports.helpers import checkpoint_scores
from utils.errors import InputError


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


def test_val_scores_a_pruned_export_as_the_checkpoint(exported, pruned_colours, tiny_dataset, tmp_path):
    how = {"device": "cpu", "workers": 0, "plots": False, "save_dir": tmp_path, "batch_size": 3}
    found, _, _ = val.run(str(tiny_dataset), str(exported("pruned_colours", "onnx", imgsz=128)), **how)
    expected = checkpoint_scores(pruned_colours, tiny_dataset, 128, square=True, **how)
    assert expected[2] > 0.5 and found[:4] == pytest.approx(expected[:4], abs=0.002)


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
    with pytest.raises(InputError, match="64x96 pixels, and validation uses square ones"):
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
