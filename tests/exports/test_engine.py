"""TensorRT engines, with a stand-in for the library."""

from __future__ import annotations

import sys
from unittest import mock

import pytest
import torch

import export
from models.backends import DetectMultiBackend
from models.exporters.graph import ExportModel
from models.exporters.job import ExportJob, GraphSettings, exporter
from models.loading import attempt_load
from models.metadata import Metadata, parse_metadata
from tests.exports.helpers import SIZE, needs
from utils.errors import InputError


def test_an_engine_needs_a_gpu(monkeypatch, stock, tmp_path):
    monkeypatch.setattr(export, "is_installed", lambda name: True)
    with pytest.raises(InputError, match="--include engine has to run on the GPU"):
        export.run(weights=str(stock), include=["engine"])
    (tmp_path / "a.engine").write_bytes(b"x")
    with pytest.raises(InputError, match="needs an NVIDIA GPU"):
        DetectMultiBackend(tmp_path / "a.engine")


@pytest.mark.slow
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
