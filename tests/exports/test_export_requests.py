"""export.py: what is refused, what it writes and says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import export
from models.backends import DetectMultiBackend
from models.formats import format_of
from models.loading import load_checkpoint
from tests.exports.helpers import SIZE, needs
from utils.commands.options import parse
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT

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
    ("--include onnx --conf-thres 0.5", "--conf-thres has no effect without NMS inside the graph: add --nms"),
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


def test_the_command_says_what_it_made_and_what_comes_next(stock, tmp_path, tiny_dataset, caplog):
    needs("onnx")
    weights = tmp_path / "my detector.pt"
    weights.write_bytes(stock.read_bytes())
    LOGGER.setLevel("INFO")
    how = {"include": ["torchscript", "onnx"], "imgsz": 64, "data": str(tiny_dataset), "nms": False}
    files = export.run(weights=str(weights), **how)
    assert files == [tmp_path / "my detector.torchscript", tmp_path / "my detector.onnx"]
    assert caplog.text.count("largest difference from PyTorch: ") == 2
    assert "only from sources that you trust" not in caplog.text  # the files are the user's own
    assert f"Exports saved to {tmp_path}" in caplog.text
    for file in files:
        assert f"python detect.py --weights '{file}'\n" in caplog.text
        assert f"python val.py --weights '{file}' --data {tiny_dataset}\n" in caplog.text
    export.run(weights=str(weights), **{**how, "include": ["onnx"], "nms": True, "conf_thres": 0.3})
    assert "--conf-thres 0.3 --iou-thres 0.45" in caplog.text
    caplog.clear()
    bare = export.ExportOptions(imgsz=64)
    export.report({tmp_path / "a.onnx": bare, tmp_path / "a.mlpackage": bare})
    assert "val.py --weights " not in caplog.text and "detect.py --weights " in caplog.text
    if sys.platform != "darwin":
        assert f"--weights {tmp_path / 'a.mlpackage'}" not in caplog.text and caplog.text.count("torch.hub.load") == 1


@pytest.mark.parametrize(
    ("name", "sizes", "dynamic", "detecting", "validating"),
    [
        ("a.onnx", [64], False, "", ""),
        ("a.onnx", [64, 96], False, "", None),  # validation would refuse it
        ("a.onnx", [64, 96], True, "", " --imgsz 96"),
        ("a.safetensors", [64], False, " --imgsz 64", " --imgsz 64"),
        ("a.safetensors", [64, 96], False, " --imgsz 64 96", " --imgsz 96"),
    ],
)
def test_the_next_commands_use_the_size_of_the_export(caplog, name, sizes, dynamic, detecting, validating):
    LOGGER.setLevel("INFO")
    export.report({Path(name): export.ExportOptions(imgsz=sizes, dynamic=dynamic, data="d.yaml")})
    assert f"python detect.py --weights {name}{detecting}\n" in caplog.text
    if validating is None:
        assert "val.py" not in caplog.text
    else:
        assert f"python val.py --weights {name} --data d.yaml{validating}\n" in caplog.text


def test_a_model_without_names_is_exported(stock, tmp_path):
    checkpoint = load_checkpoint(stock)
    checkpoint["model"].names = []
    torch.save({"model": checkpoint["model"]}, tmp_path / "nameless.pt")
    [file] = export.run(weights=str(tmp_path / "nameless.pt"), imgsz=SIZE, include=["torchscript"])
    names = DetectMultiBackend(str(file)).names
    assert names == {index: f"class{index}" for index in range(checkpoint["model"].model[-1].nc)}


def test_the_table_of_formats():
    table = export.export_formats()
    assert list(table.columns) == ["Format", "Argument", "Suffix", "CPU", "GPU"]
    rows = {row.Argument: row.Suffix for row in table.itertuples()}
    assert rows["-"] == ".pt" and rows["openvino"] == "_openvino_model" and rows["engine"] == ".engine"
    for argument, suffix in rows.items():
        assert format_of(f"some/best{suffix}").argument == argument
    assert format_of("best_openvino_model/best.xml").argument == "openvino"


def test_telemetry_stays_out():
    script = "import sys\nfrom utils.commands.packages import require\nrequire('json', 'x')\nimport openvino_telemetry"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in done.stderr and "None in sys.modules" in done.stderr
