"""TensorFlow Lite files: INT8, raw heads, and the runtime. The converter needs an environment of its own."""

from __future__ import annotations

import json
import sys
import zipfile
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import export
from models.backends import DetectMultiBackend
from models.exporters.agreement import agreement
from models.exporters.images import ImageBatches, choose_files
from models.exporters.options import NmsSettings
from models.loading import attempt_load
from models.metadata import FILE_NAME
from tests.exports.helpers import SIZE, needs
from utils.errors import InputError

ANCHORS = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]


def test_missing_packages_are_named_before_any_work(monkeypatch):
    monkeypatch.setattr(export, "is_installed", lambda name: name != "ai_edge_quantizer")
    with pytest.raises(InputError, match=r"--include tflite --int8 needs packages .*: pip install ai-edge-quantizer "):
        export.run(weights="nowhere.pt", include=["tflite"], int8=True)


class Recorded:
    """An interpreter that gives the same tensors for all images, and lists its outputs in an order of its own."""

    tensors: dict[str, np.ndarray]

    def __init__(self, path: str, num_threads: int) -> None:
        self.names = list(self.tensors)

    def allocate_tensors(self) -> None:
        """Nothing: the tensors are there."""

    def get_input_details(self) -> list[dict]:
        """One input."""
        return [{"index": -1, "name": "images"}]

    def get_output_details(self) -> list[dict]:
        """The outputs by name, and indices to get them."""
        return [{"index": index, "name": name} for index, name in enumerate(self.names)]

    def set_tensor(self, index: int, values: np.ndarray) -> None:
        """Take the images."""
        assert index == -1 and values.shape == (1, 3, SIZE, SIZE)

    def invoke(self) -> None:
        """Nothing: the tensors are there."""

    def get_tensor(self, index: int) -> np.ndarray:
        """The tensor of an output."""
        return self.tensors[self.names[index]]


def test_maps_are_put_in_the_order_of_their_levels(pruned, tmp_path, monkeypatch):
    images = torch.rand(1, 3, SIZE, SIZE)
    model = attempt_load(pruned)
    with torch.no_grad():
        expected, raw = model(images)
    maps = [level.permute(0, 1, 4, 2, 3).flatten(1, 2).numpy() for level in raw]
    Recorded.tensors = {f"serving_default_output_{level}_output": maps[level] for level in (2, 0, 1)}
    monkeypatch.setitem(sys.modules, "ai_edge_litert", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", SimpleNamespace(Interpreter=Recorded))
    content = {"names": ["disc", "square"], "stride": 32, "imgsz": [SIZE, SIZE], "anchors": ANCHORS}
    with zipfile.ZipFile(tmp_path / "raw.tflite", "w") as archive:
        archive.writestr(FILE_NAME, json.dumps(content | {"strides": model.model[-1].stride.tolist()}))
    found = DetectMultiBackend(tmp_path / "raw.tflite")(images)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("flags, float_convolutions", [({}, 2), ({"raw_heads": True}, 0)])
def test_int8_finds_what_the_checkpoint_finds(exported, stock, tiny_dataset, flags, float_convolutions):
    needs("tflite")
    if find_spec("ai_edge_quantizer") is None:
        pytest.skip("ai-edge-quantizer is not installed")
    path = exported("stock", "tflite", int8=True, calibration_images=6, **flags)
    assert path.name == ("stock_raw_int8.tflite" if flags else "stock_int8.tflite")
    backend = DetectMultiBackend(path)
    assert backend.runtime.metadata.int8
    checkpoint = DetectMultiBackend(stock)
    images = ImageBatches(choose_files(str(tiny_dataset), "val", 4), (128, 128))
    result = agreement(backend, lambda batch: checkpoint(batch)[0], images, NmsSettings())
    assert result.boxes > 10 and result.share > 0.7
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(str(path))
    kinds = [tensor["dtype"] for tensor in interpreter.get_input_details() + interpreter.get_output_details()]
    assert set(kinds) == {np.float32}
    tensors = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    convolutions = [each for each in interpreter._get_ops_details() if each["op_name"] == "CONV_2D"]
    assert len(convolutions) == 4
    assert [tensors[each["outputs"][0]] for each in convolutions].count(np.float32) == float_convolutions


def test_a_conversion_is_quiet(exported, stock, capfd, recwarn):
    needs("tflite")
    exported("stock", "tflite")
    printed = capfd.readouterr()
    assert "[START]" not in printed.out + printed.err
    assert not [each for each in recwarn if each.category is FutureWarning]
