"""INT8 exports: what is quantized, on which images, what they find, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
import export
import val
from models.backends import DetectMultiBackend
from models.exporters import images as image_files
from models.exporters import quantization, to_onnx
from models.exporters.agreement import Agreement, agreement
from models.exporters.options import NmsSettings
from tests.exports.helpers import skip_where_openvino_is_misled
from utils.errors import InputError
from utils.storage.files import ROOT, read_yaml, write_yaml

SIZE = 128
PACKAGES = {"onnx": ["onnx", "onnxruntime"], "openvino": ["onnx", "openvino", "nncf"]}


def needs(argument: str) -> None:
    """Skip the test where a library that INT8 in this format needs is missing."""
    for package in PACKAGES[argument]:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if argument == "openvino":
        skip_where_openvino_is_misled()


@pytest.fixture(scope="module")
def quantized(tmp_path_factory, tiny_dataset, stock, pruned_colours):
    """A function (format, checkpoint, flags) -> the INT8 export, made once."""
    made: dict[tuple, Path] = {}

    def make(argument: str, which: str = "stock", **flags) -> Path:
        needs(argument)
        key = (argument, which, *flags)
        if key not in made:
            weights = tmp_path_factory.mktemp(argument) / f"{which}.pt"
            weights.symlink_to({"stock": stock, "pruned_colours": pruned_colours}[which])
            (made[key],) = export.run(
                weights=str(weights), include=[argument], imgsz=SIZE, data=str(tiny_dataset), int8=True,
                calibration_images=6, **flags,
            )  # fmt: skip
        return made[key]

    return make


@pytest.mark.parametrize("argument", PACKAGES)
def test_val_and_detect_run_int8(quantized, stock, tiny_dataset, tmp_path, argument):
    path = quantized(argument)
    assert path.name == {"onnx": "stock_int8.onnx", "openvino": "stock_int8_openvino_model"}[argument]
    backend = DetectMultiBackend(path)
    assert backend.runtime.metadata.int8 and backend.fixed_size == (SIZE, SIZE)
    how = {"device": "cpu", "workers": 0, "plots": False, "save_dir": tmp_path}
    found, _, _ = val.run(str(tiny_dataset), str(path), **how)
    expected, _, _ = val.run(str(tiny_dataset), str(stock), imgsz=SIZE, **how)
    assert expected[2] > 0.5 and found[2] > 0.6 * expected[2]  # it has two channels, and sharp ones
    source = str(tiny_dataset.parent / "images/val")
    folder = detect.run(weights=str(path), source=source, project=str(tmp_path), save_txt=True, nosave=True)
    assert any((folder / "labels").iterdir())


@pytest.mark.parametrize("which, flag", [("pruned_colours", None), ("stock", "nms"), ("stock", "dynamic")])
@pytest.mark.parametrize("argument", PACKAGES)
def test_int8_of_pruned_ones_with_nms_and_of_any_size(
    quantized, stock, pruned_colours, tiny_dataset, argument, which, flag
):
    backend = DetectMultiBackend(quantized(argument, which, **({flag: True} if flag else {})))
    checkpoint = DetectMultiBackend({"stock": stock, "pruned_colours": pruned_colours}[which])
    assert backend.runtime.metadata.int8 and bool(backend.nms) == (flag == "nms")
    files = image_files.choose_files(str(tiny_dataset), "val", 4)
    for size in ((SIZE, SIZE), (96, 160))[: 2 if flag == "dynamic" else 1]:
        batches = image_files.ImageBatches(files, size, batch=2)
        result = agreement(backend, lambda images: checkpoint(images)[0], batches, NmsSettings())
        assert result.boxes > 10 and result.share > 0.7


def test_onnx_quantizes_all_but_the_head(quantized):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(quantized("onnx")).graph
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    source = {output: node for node in graph.node for output in node.output}
    kinds = [source[node.input[1]].op_type if node.input[1] in source else "float"
             for node in graph.node if node.op_type == "Conv"]  # fmt: skip
    assert kinds == ["DequantizeLinear"] * 2 + ["float"] * 2  # two layers, and the head's two convolutions
    first = next(node for node in graph.node if node.op_type == "Conv")
    weight, scale, zero = (arrays[name] for name in source[first.input[1]].input)
    assert weight.dtype == np.int8 and scale.shape == (8,) and not zero.any()  # by channel, symmetric


@pytest.mark.parametrize(
    "which, flag", [("stock", None), ("pruned_colours", None), ("stock", "nms"), ("stock", "dynamic")]
)
def test_onnx_sums_fit_into_16_bits(quantized, which, flag):
    """Processors without VNNI add two products of an activation and a weight in 16 bits."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(quantized("onnx", which, **({flag: True} if flag else {}))).graph
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    source = {output: node for node in graph.node for output in node.output}
    pairs = [[source[name].input for name in node.input[:2] if name in source and "Dequantize" in source[name].op_type]
             for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm")]  # fmt: skip
    pairs = [pair for pair in pairs if len(pair) == 2]
    assert len(pairs) == 2
    for (_, _, activation_zero), (weight, _, weight_zero) in pairs:
        assert arrays[activation_zero].dtype == np.uint8 and arrays[weight].dtype == np.int8
        assert not arrays[weight_zero].any() and np.abs(arrays[weight].astype(int)).max() * 255 * 2 <= 32767


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 3])
def test_biases_make_up_for_the_errors_of_weights(groups):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    generator = np.random.default_rng(0)
    arrays = {"w1": generator.normal(size=(6, 3 // groups, 3, 3)), "b1": generator.normal(size=6),
              "w2": generator.normal(size=(2, 6, 1, 1)), "b2": np.zeros(2)}  # fmt: skip
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    make = onnx.helper
    nodes = [make.make_node("Conv", ["images", "w1", "b1"], ["x"], "first", group=groups),
             make.make_node("Conv", ["x", "w2", "b2"], ["y"], "last")]  # fmt: skip
    shapes = [make.make_tensor_value_info("images", 1, [1, 3, 64, 64]), make.make_tensor_value_info("y", 1, None)]
    graph = make.make_graph(nodes, "two", shapes[:1], shapes[1:],
                            [onnx.numpy_helper.from_array(value, name) for name, value in arrays.items()])  # fmt: skip
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    images = image_files.ImageBatches([], (64, 64))
    result = quantization.quantize_onnx(model, images).graph
    found = {array.name: onnx.numpy_helper.to_array(array) for array in result.initializer}
    source = {output: node for node in result.node for output in node.output}
    first = next(node for node in result.node if node.name == "first")
    (weight, weight_scale), (bias, scale) = ([found[name] for name in source[first.input[i]].input[:2]] for i in (1, 2))
    error = weight * weight_scale.astype(float).reshape(-1, 1, 1, 1) - arrays["w1"]
    means = next(iter(images))[0].double().mean((1, 2)).numpy()
    shift = [sum(error[o, i].sum() * means[i if groups == 1 else o // 2] for i in range(3 // groups)) for o in range(6)]
    assert np.abs(shift).max() > 3 * scale.max()
    np.testing.assert_allclose(bias * scale.astype(float), arrays["b1"] - shift, atol=1.1 * scale.max())


def test_openvino_quantizes_all_but_the_head(quantized):
    path = quantized("openvino")
    model = pytest.importorskip("openvino").Core().read_model(path / "stock_int8.xml")
    types = {node.get_friendly_name(): node.get_type_name() for node in model.get_ops()}
    assert "FakeQuantize" in types.values()
    assert not [name for name, kind in types.items() if kind == "FakeQuantize" and "model.2/m" in name]


def test_onnx_declares_what_it_uses(quantized):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(quantized("onnx"))
    assert {entry.domain for entry in model.opset_import} == {node.domain for node in model.graph.node}


def test_no_progress_bars_in_a_log(own_stock, tiny_dataset):
    needs("openvino")
    command = [sys.executable, "export.py", "--weights", str(own_stock), "--include", "openvino", "--int8"]
    command += ["--imgsz", "64", "--data", str(tiny_dataset), "--calibration-images", "2"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "collection" not in run.stdout + run.stderr and "correction" not in run.stdout + run.stderr


def test_what_no_convolution_follows():
    chain = {"a": ["b", "side"], "b": ["c"], "c": ["d", "e"], "d": ["out"], "e": ["out"], "side": ["out"], "out": []}
    assert quantization.after_convolutions(chain, {"a", "c", "d"}) == ["d", "e", "side", "out"]


def test_a_file_that_finds_something_else_is_an_error(stock, tiny_dataset):
    backend = DetectMultiBackend(stock)
    files = image_files.choose_files(str(tiny_dataset), "train", 4)
    images = image_files.ImageBatches(files, (SIZE, SIZE), batch=3)
    assert [len(batch) for batch in images] == [3, 3] and len(images) == 2

    def predict(batch: torch.Tensor) -> torch.Tensor:
        return backend(batch)[0]

    def moved(batch: torch.Tensor) -> torch.Tensor:
        return predict(batch) + torch.tensor([40.0, 40, 0, 0, 0, 0, 0])

    def nothing(batch: torch.Tensor) -> torch.Tensor:
        return predict(batch) * torch.nan

    settings = NmsSettings(conf_thres=0.1)
    same = agreement(backend, predict, images, settings)
    assert same.share == 1 and same.boxes >= 10
    same.check("it")
    for other in (moved, nothing):
        with pytest.raises(InputError, match=r"it and the checkpoint have .*% of their boxes in common, less than 60%"):
            agreement(backend, other, images, settings).check("it")
    assert "not judged" in str(Agreement(0, 0, 4))


@pytest.fixture
def own_stock(stock, tmp_path) -> Path:
    """A copy of the checkpoint in a folder of its own."""
    weights = tmp_path / "own" / "stock.pt"
    weights.parent.mkdir()
    weights.write_bytes(stock.read_bytes())
    return weights


class WrongElsewhere(torch.nn.Module):
    """A network that is right at one height only."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The predictions, moved by what the height differs from SIZE."""
        return self.network(images) + torch.ones_like(images[0, 0, :, 0]).sum() - SIZE


def test_a_dynamic_file_that_is_wrong_at_other_sizes_is_an_error(own_stock, tiny_dataset, monkeypatch):
    needs("onnx")
    honest = to_onnx.onnx_model

    def wrong_elsewhere(job):
        job.model = WrongElsewhere(job.model)
        return honest(job)

    how = {"weights": str(own_stock), "include": ["onnx"], "imgsz": SIZE, "data": str(tiny_dataset), "int8": True,
           "calibration_images": 6, "dynamic": True}  # fmt: skip
    monkeypatch.setattr(to_onnx, "onnx_model", wrong_elsewhere)
    with pytest.raises(InputError, match=r"INT8 export at another image size and the checkpoint have 0% of their box"):
        export.run(**how)
    assert [path.name for path in own_stock.parent.iterdir()] == ["stock.pt"]


def test_what_is_compared_are_validation_images(own_stock, tiny_dataset, monkeypatch, tmp_path, caplog):
    needs("onnx")
    seen: list[str] = []
    original = image_files.ImageBatches

    class Noting(original):
        def __init__(self, files, size, batch=1, doing="Calibrating") -> None:
            seen.extend(f"{doing} {Path(file).parent.name}" for file in files)
            super().__init__(files, size, batch, doing)

    monkeypatch.setattr("models.exporters.checkpoint.ImageBatches", Noting)
    how = {"weights": str(own_stock), "include": ["onnx"], "imgsz": SIZE, "int8": True, "calibration_images": 6}
    export.run(data=str(tiny_dataset), **how)
    assert set(seen) == {"Calibrating train", "Comparing val"} and "not judged" not in caplog.text
    (tmp_path / "blank").mkdir()
    cv2.imwrite(str(tmp_path / "blank/0.png"), np.full((64, 64, 3), 120, np.uint8))
    blank = {**read_yaml(tiny_dataset), "val": str(tmp_path / "blank")}
    write_yaml(tmp_path / "blank.yaml", blank)
    export.run(data=str(tmp_path / "blank.yaml"), **how)
    assert "WARNING: the ONNX INT8 export is not judged: in 1 image(s) there are too few boxes" in caplog.text


def test_the_same_readable_images_each_time(tiny_dataset, tmp_path, caplog):
    first = image_files.calibration_files(str(tiny_dataset), 3)
    assert first == image_files.calibration_files(str(tiny_dataset), 3) and len(set(first)) == 3
    assert all("images/train" in Path(file).as_posix() for file in first)
    (tmp_path / "train").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"train/{index}.png"), np.full((8, 8, 3), index, np.uint8))
    (tmp_path / "train/1.png").write_bytes(b"damaged")
    write_yaml(tmp_path / "data.yaml", {"path": str(tmp_path), "train": "train", "val": "train", "names": ["a"]})
    assert len(image_files.calibration_files(str(tmp_path / "data.yaml"), 9)) == 2
    assert "WARNING: skipped: " in caplog.text and "1.png" in caplog.text


def test_int8_needs_images(stock, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "is_installed", lambda name: True)
    write_yaml(tmp_path / "no.yaml", {**read_yaml(tiny_dataset), "path": str(tmp_path / "absent")})
    for file in (tmp_path / "no.yaml", tmp_path / "nowhere.yaml"):
        with pytest.raises(InputError, match=r"--int8 needs training images to calibrate on: give .* by --data"):
            export.run(weights=str(stock), include=["onnx"], int8=True, data=str(file))
    assert [path.name for path in stock.parent.iterdir()] == ["stock.pt"]


def test_int8_for_openvino_names_its_library(monkeypatch):
    monkeypatch.setattr(export, "is_installed", lambda name: name != "nncf")
    with pytest.raises(InputError, match=r"--include openvino --int8 needs packages .*: pip install nncf "):
        export.run(weights="nowhere.pt", include=["openvino"], int8=True)


@pytest.mark.parametrize(
    "words, message",
    [
        ("--include ncnn --int8", "--int8 is not possible with --include ncnn: possible with onnx openvino"),
        ("--include onnx --int8 --half", "--int8 and --half contradict each other"),
        (
            "--include onnx --int8 --opset 12",
            "--opset 12 of ONNX has no INT8 weights .*: choose 13 or higher",
        ),
        ("--include onnx --calibration-images 8", "--calibration-images has no effect without INT8: add --int8"),
        ("--include onnx --int8 --calibration-images 0", "--calibration-images must be at least 1"),
    ],
)
def test_flags_that_cannot_be_honoured(words, message):
    from utils.commands.options import parse

    with pytest.raises(InputError, match=message):
        parse(export.ExportOptions, "", words.split())


def test_a_limit_of_onnx_alone(quantized):
    assert DetectMultiBackend(quantized("openvino", "pruned_colours", opset=12)).runtime.metadata.int8
