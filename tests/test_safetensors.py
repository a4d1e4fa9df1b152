"""Detectors as safetensors: written, read wherever a .pt file is, damaged."""

from __future__ import annotations

import json
import struct

import pytest
import torch

import export
from models.backends import DetectMultiBackend
from models.checkpoints.safetensors_models import read_model, write_model
from models.loading import attempt_load, load_checkpoint, strip_optimizer
from tests.torch_file_tools import tiny_model
from utils.checkpoint import save_checkpoint
from utils.errors import CheckpointError, InputError
from utils.torch_files.safetensors_file import read_safetensors, write_safetensors


@pytest.fixture
def files(tmp_path):
    """A checkpoint in FP16, and its export."""
    save_checkpoint({"model": tiny_model()}, tmp_path / "best.pt")
    (written,) = export.run(weights=str(tmp_path / "best.pt"), include=["safetensors"], imgsz=64)
    assert written == tmp_path / "best.safetensors"
    return tmp_path / "best.pt", written


def test_export_keeps_every_number(files):
    source, target = (load_checkpoint(file)["model"] for file in files)
    assert list(source.state_dict()) == list(target.state_dict())
    for name, value in source.state_dict().items():
        assert value.dtype == target.state_dict()[name].dtype
        assert torch.equal(value, target.state_dict()[name])
    assert target.names == source.names
    assert torch.equal(target.stride, source.stride.float())
    images = torch.rand(1, 3, 64, 64)
    expected, found = (attempt_load(file)(images)[0] for file in files)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_half_rounds(tmp_path):
    torch.save({"model": tiny_model()}, tmp_path / "best.pt")
    export.run(weights=str(tmp_path / "best.pt"), include=["safetensors"], imgsz=64)
    state = load_checkpoint(tmp_path / "best.safetensors")["model"].state_dict()
    assert {str(value.dtype) for value in state.values()} == {"torch.float32", "torch.int64"}
    export.run(weights=str(tmp_path / "best.pt"), include=["safetensors"], imgsz=64, half=True)
    state = load_checkpoint(tmp_path / "best.safetensors")["model"].state_dict()
    assert {str(value.dtype) for value in state.values()} == {"torch.float16", "torch.int64"}


def test_reading_draws_no_random_numbers(files):
    before = torch.get_rng_state()
    load_checkpoint(files[1])
    assert torch.equal(before, torch.get_rng_state())


def test_it_is_read_like_a_checkpoint(files):
    backend = DetectMultiBackend(files[1])
    assert backend.pt
    assert backend.names == {0: "a", 1: "b"}
    DetectMultiBackend(list(files))(torch.zeros(1, 3, 64, 64))  # an ensemble
    (onnx,) = export.run(weights=str(files[1]), include=["torchscript"], imgsz=64)
    assert onnx.exists()
    with pytest.raises(InputError, match="export it to another format"):
        export.run(weights=str(files[1]), include=["safetensors"], imgsz=64)
    with pytest.raises(InputError, match="no optimizer"):
        strip_optimizer(files[1])


def test_the_library_reads_it_and_writes_it(files):
    library = pytest.importorskip("safetensors.torch")
    own, metadata = read_safetensors(files[1])
    theirs = library.load_file(files[1])
    assert own.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    library.save_file(theirs, files[1], metadata=metadata)
    again, _ = read_safetensors(files[1])
    assert all(torch.equal(value, again[name]) for name, value in own.items())


def _with_header(change):
    def damage(content: bytes) -> bytes:
        length = struct.unpack_from("<Q", content)[0]
        header = json.loads(content[8 : 8 + length])
        text = change(header) or json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return damage


WEIGHT = "model.0.conv.weight"
DAMAGES = {
    "empty": lambda content: b"", "cut": lambda content: content[:-1], "longer": lambda content: content + b"x",
    "length": lambda content: b"\xff" * 8 + content[8:], "no header": lambda content: bytes(8) + content[8:],
    "no json": _with_header(lambda header: b"{" * 10), "deep": _with_header(lambda header: b"[" * 100_000),
    "a list": _with_header(lambda header: b"[]"), "twice": _with_header(lambda header: b'{"a":{},"a":{}}'),
    "type": _with_header(lambda header: header[WEIGHT].update(dtype="F8")),
    "shape": _with_header(lambda header: header[WEIGHT].update(shape=[2**40, 2**40])),
    "negative": _with_header(lambda header: header[WEIGHT].update(shape=[-8, -3, 3, 3])),
    "long number": _with_header(lambda header: json.dumps(header).replace("2", "9" * 5000).encode()),
    "overlap": _with_header(lambda header: header[WEIGHT].update(data_offsets=[0, 1])),
    "no offsets": _with_header(lambda header: header[WEIGHT].pop("data_offsets") and None),
    "missing": _with_header(lambda header: header.pop(WEIGHT) and None),
    "metadata": _with_header(lambda header: header.update(__metadata__={"format": 1})),
    "no metadata": _with_header(lambda header: header.pop("__metadata__") and None),
    "another network": _with_header(lambda header: header["__metadata__"].update(yolov5_prune="{}")),
    "text": _with_header(lambda header: header["__metadata__"].update(yolov5_prune="[" * 100_000)),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(files, damage):
    files[1].write_bytes(DAMAGES[damage](files[1].read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(files[1])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_configurations_that_do_not_fit(tmp_path):
    model, file = tiny_model(), tmp_path / "other.safetensors"
    model.yaml = {**model.yaml, "nc": 3}
    write_model(model, file)
    with pytest.raises(CheckpointError, match="do not fit the network"):
        read_model(file)
    model.yaml = {**model.yaml, "backbone": [[-1, 1, "os.system", ["x"]]]}
    write_model(model, file)
    with pytest.raises(CheckpointError, match="cannot be built"):
        read_model(file)
    write_safetensors(file, {"a": torch.zeros(2)}, {})
    with pytest.raises(CheckpointError, match="does not say of which network"):
        read_model(file)


def test_a_network_that_its_configuration_does_not_tell(tmp_path):
    model = tiny_model()
    model.model[1].cv1.act = torch.nn.Hardswish()
    torch.save({"model": model}, tmp_path / "best.pt")
    export.run(weights=str(tmp_path / "best.pt"), include=["safetensors"], imgsz=64)
    images = torch.rand(1, 3, 64, 64)
    expected, found = (attempt_load(tmp_path / f"best{suffix}")(images)[0] for suffix in (".pt", ".safetensors"))
    torch.testing.assert_close(found, expected)
