"""Metadata of exported files, and files that say nothing or nonsense."""

from __future__ import annotations

import json

import pytest
import torch

from models.backends import DetectMultiBackend
from models.backends.runtime import Runtime
from models.formats import format_of
from models.metadata import Metadata, parse_metadata, parse_texts
from tests.exports.helpers import SIZE, needs
from utils.errors import InputError, MissingFileError
from utils.version import MADE_BY


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.torchscript", "a.onnx", "a_openvino_model", "a.tflite", "a_ncnn_model"])
def test_missing_and_damaged_exports(tmp_path, name):
    with pytest.raises(MissingFileError, match=f"no such export: .*{name}"):
        DetectMultiBackend(tmp_path / name)
    needs(format_of(name).argument)
    if name.endswith(("_model", ".mlpackage")):
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
        ("stride", float("inf")), ("stride", float("nan")), ("stride", 10**400), ("imgsz", [10**400, 64]),
        ("batch", 10**9),
        ("names", {"0": "a", "5": "b"}), ("names", {"9" * 500: "a"}), ("names", [["a"]]), ("names", [None]),
        ("names", ["a"] * 100_001), ("weights", ["x"]), ("made_by", {"a": "b"}), ("nms", ["x" * 10**6]),
    ],
)  # fmt: skip
def test_damaged_metadata_are_named(entry, value):
    assert parse_metadata(json.dumps(GOOD | {"nms": NMS}), "a.onnx").nms == NMS
    with pytest.raises(InputError, match=f"a.onnx: its metadata entry '{entry}' is .*: export it again"):
        parse_metadata(json.dumps(GOOD | {entry: value}), "a.onnx")
    with pytest.raises(InputError, match=r"'imgsz' is None"):
        parse_metadata(json.dumps({"names": ["a"], "stride": 32, "shape": 7}), "a.onnx")


@pytest.mark.parametrize("text", [
    "[" * 100_000, '{"a":' * 100_000, "-" * 100_000 + "1", "(" * 9999, "1+" * 100_000 + "1", "9" * 5000,
    "[" + "1," * 3_000_000,
    "{" * 5000, "\0", "\ud800", "[[[[", "nan", "{[]: 1}", "{1: {2}}",
], ids=lambda text: repr(text[:5]))  # fmt: skip
def test_nested_and_endless_metadata_are_refused_in_one_line(text):
    for read in (
        lambda: parse_metadata(text, "a.onnx"),
        lambda: parse_metadata(text.encode(errors="surrogatepass"), "a.onnx"),
        lambda: parse_texts({"names": text, "stride": "32", "imgsz": "[64, 64]"}, "a.onnx"),
    ):
        with pytest.raises(InputError) as caught:
            read()
        assert "a.onnx" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


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


def test_exports_state_the_version_that_made_them(exported):
    config = {"config.txt": ""}
    torch.jit.load(str(exported("pruned", "torchscript")), _extra_files=config)
    assert parse_metadata(config["config.txt"], "export").made_by == f"{MADE_BY}, torch {torch.__version__}"


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
