"""DetectMultiBackend on checkpoints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.backends import DetectMultiBackend
from models.loading import attempt_load
from models.yolo import DetectionModel
from utils.checkpoint import save_checkpoint
from utils.errors import InputError, MissingFileError

CONFIG = {
    "nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30], [116, 90, 156, 198]],
    "backbone": [[-1, 1, "Conv", [8, 3, 8]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[0, 1], 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A detector of strides 8 and 16 as a stripped checkpoint."""
    torch.manual_seed(0)
    model = DetectionModel(CONFIG)
    model.names = ["face", "mask"]
    path = tmp_path_factory.mktemp("backend") / "tiny.pt"
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, path)
    return path


def test_attributes_and_output(weights):
    backend = DetectMultiBackend(weights, device=torch.device("cpu"))
    assert (backend.stride, backend.names, backend.nc) == (32, {0: "face", 1: "mask"}, 2)
    assert (backend.pt, backend.fp16, backend.device.type) == (True, False, "cpu")
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found, raw = backend(picture)
        expected = attempt_load(weights)(picture)[0]
    assert found.shape == (1, 2 * (8 * 8 + 4 * 4), 7)
    assert len(raw) == 2
    torch.testing.assert_close(found, expected)
    assert backend(picture, augment=True)[0].shape[1] > found.shape[1]
    backend.warmup((1, 3, 64, 64))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backend.modules())
    unfused = DetectMultiBackend(str(weights), fuse=False)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in unfused.modules())


def test_ensemble(weights):
    backend = DetectMultiBackend([weights, weights], "cpu")
    assert backend(torch.rand(1, 3, 64, 64))[0].shape == (1, 2 * 160, 7)
    assert backend.names == {0: "face", 1: "mask"}
    assert backend.stride == 32


def test_names_from_the_data_set(tmp_path):
    model = DetectionModel(CONFIG)
    model.names = []
    save_checkpoint({"model": model}, tmp_path / "nameless.pt")
    (tmp_path / "data.yaml").write_text("names: {0: cat, 1: dog}\n")
    assert DetectMultiBackend(tmp_path / "nameless.pt").names == {0: "class0", 1: "class1"}
    assert DetectMultiBackend(tmp_path / "nameless.pt", data=tmp_path / "data.yaml").names == {0: "cat", 1: "dog"}


@pytest.mark.parametrize("name", ["yolov5n", "model.pb", "model_web_model", "model.mlmodel"])
def test_other_formats(name):
    with pytest.raises(InputError, match=f"cannot run {name}.*export"):
        DetectMultiBackend(name)


def test_impossible_requests(weights, tmp_path):
    with pytest.raises(MissingFileError, match=r"nowhere\.pt"):
        DetectMultiBackend(tmp_path / "nowhere.pt")
    with pytest.raises(InputError, match="half precision needs a GPU"):
        DetectMultiBackend(weights, fp16=True)
    with pytest.raises(InputError, match="ONNX"):
        DetectMultiBackend(weights, dnn=True)


@pytest.mark.parametrize("limit, remedy", [("", "export it again"), ("SSE41", "ONEDNN_MAX_CPU_ISA is set.* unset it")])
def test_why_openvino_fails(tmp_path, monkeypatch, limit, remedy):
    def fail(path, device):
        raise RuntimeError("bad combination")

    monkeypatch.setattr("models.backends.openvino.OpenVINORuntime", fail)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    (tmp_path / "a_openvino_model").mkdir()
    with pytest.raises(InputError, match=rf"a_openvino_model cannot be loaded as OpenVINO: .*{remedy} \(bad comb"):
        DetectMultiBackend(tmp_path / "a_openvino_model")
