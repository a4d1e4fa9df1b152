"""Files of torch.save for tests: pickles by hand, entries exchanged, a small model, and how a file is refused."""

from __future__ import annotations

import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.checkpoints.rebuilding import module_classes
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from utils.errors import CheckpointError
from utils.torch_files.reader import read_torch_file

SECONDS = 15  # of processor time; the slowest takes less than one of its own


def tiny_model() -> DetectionModel:
    """A detector of two levels with very few channels, seeded."""
    torch.manual_seed(0)
    config = {
        "nc": 2, "depth_multiple": 0.33, "width_multiple": 0.5, "anchors": [[10, 13, 16, 30], [116, 90, 156, 198]],
        "backbone": [[-1, 1, "Conv", [16, 3, 8]], [-1, 1, "C3", [16]], [-1, 1, "Conv", [32, 3, 2]]],
        "head": [[[1, 2], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    model = DetectionModel(config).eval()
    model.names = ["a", "b"]
    return model


def refusal(path: Path) -> str:
    """The one line with which a file is refused, before long."""
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert time.process_time() - started < SECONDS
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    assert path.name in message
    return message


def pickled_globals(path: str | Path) -> list[str]:
    """The classes and functions ('module.name') that a readable file names, in order, each once."""
    return list(dict.fromkeys(read_torch_file(path, module_classes().keys()).names))


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None], **settings) -> Path:
    """Write the archive anew with ``change(name, content)`` of each entry, name without its folder; None drops it."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **settings) as archive:
        for name, content in entries.items():
            changed = change(name.split("/", 1)[1], content)
            if changed is not None:
                archive.writestr(name, changed)
    return path


# -- pickles by hand ---------------------------------------------------------------------------------------------------


def name(path: str) -> bytes:
    """GLOBAL of 'module.name'."""
    home, last = path.rsplit(".", 1)
    return f"c{home}\n{last}\n".encode()


def text(value: str | bytes) -> bytes:
    """BINUNICODE."""
    content = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(content)) + content


def call(path: str, arguments: bytes = b")") -> bytes:
    """GLOBAL, arguments, REDUCE."""
    return name(path) + arguments + b"R"


def storage(kind: str = "Float", key: str = "0", count: int = 1) -> bytes:
    """The persistent identity of numbers."""
    size = b"J" + struct.pack("<i", count)
    return b"(" + text("storage") + name(f"torch.{kind}Storage") + text(key) + text("cpu") + size + b"tQ"


def tensor(
    size: bytes = b"K\x01\x85", stride: bytes = b"K\x01\x85", offset: bytes = b"K\x00", numbers: bytes = b""
) -> bytes:
    """A tensor of one number, unless told otherwise."""
    content = (numbers or storage()) + offset + size + stride + b"\x89" + call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", b"(" + content + b"t")


def write(path: Path, value: bytes, numbers: dict[str, bytes] | None = None) -> Path:
    """A file like those of torch.save whose 'extra' is the value that a pickle by hand makes."""
    pickled = b"\x80\x02}" + text("model") + b"Ns" + text("extra") + value + b"s."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, content in (numbers or {"0": bytes(4)}).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
    return path
