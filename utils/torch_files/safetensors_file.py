"""The safetensors format (huggingface.co/docs/safetensors): a JSON header, then numbers; it cannot hold code.

Layout: length of the header (8 bytes, little-endian); the header, ``{name: {dtype, shape, data_offsets}}`` with texts
under ``__metadata__``; the tensors, consecutive and without gaps. There is no checksum.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import CheckpointError, short_repr
from utils.storage.files import atomic_path

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
WORDS = {dtype: word for word, dtype in DTYPES.items()}
METADATA = "__metadata__"
HEADER_BYTES = 16 * 2**20  # the format allows 100 MB
FILE_BYTES = 8 * 2**30
MOST_TENSORS = 100_000
_LENGTH = struct.Struct("<Q")


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors by name, and texts, atomically."""
    header: dict[str, Any] = {METADATA: dict(metadata)}
    position = 0
    # Large elements first, so that each tensor begins at a multiple of its element's size
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    for name in order:
        tensor = tensors[name]
        extent = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": WORDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + extent],
        }
        position += extent
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as draft, open(draft, "wb") as stream:
        stream.write(_LENGTH.pack(len(text)) + text)
        for name in order:
            content: Any = tensors[name].detach().cpu().contiguous().flatten()
            stream.write(content.view(torch.uint8).numpy().tobytes() if content.numel() else b"")


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors, on the CPU, and the texts. Raises CheckpointError if it is damaged or another format."""
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = _LENGTH.unpack(stream.read(_LENGTH.size))[0] if size >= _LENGTH.size else size
            if size > FILE_BYTES or length > min(HEADER_BYTES, size - _LENGTH.size):
                raise _Fault("it has no header, or is incomplete")
            layout, metadata = _parse_header(stream.read(length), size - _LENGTH.size - length)
            tensors = {}
            for name, (dtype, shape, count) in layout.items():
                content = torch.empty(count, dtype=torch.uint8)
                array: Any = content.numpy()
                if stream.readinto(array) != count:
                    raise _Fault("it is incomplete")
                if dtype is torch.bool and count and int(content.max()) > 1:
                    raise _Fault(f"the truth values {short_repr(name)} are not 0 or 1")
                tensors[name] = content.view(dtype).reshape(shape)
    except _Fault as fault:
        raise CheckpointError(f"{path} is not an intact safetensors file, {fault}: copy or download it again") from None
    return tensors, metadata


class _Fault(Exception):
    """A fault of a file."""


def _no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise _Fault("its header says something twice")
    return content


def _parse_header(
    text: bytes, extent: int
) -> tuple[dict[str, tuple[torch.dtype, tuple[int, ...], int]], dict[str, str]]:
    """Type, shape and bytes of each tensor in the order of the file, and the texts."""
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_repetition)
    except (ValueError, RecursionError):
        raise _Fault("its header is not JSON") from None
    if not isinstance(header, dict) or len(header) > MOST_TENSORS:
        raise _Fault("its header is not a mapping of tensors")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _Fault("its metadata values are not all text")
    layout = {}
    position = 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(item[1])):
        dtype = DTYPES.get(entry["dtype"]) if isinstance(entry.get("dtype"), str) else None
        shape = entry.get("shape")
        offsets = entry["data_offsets"]
        if dtype is None or not _are_sizes(shape) or len(shape) > 16 or len(offsets) != 2:
            raise _Fault(f"its tensor {short_repr(name)} is not valid")
        count = math.prod(shape) * dtype.itemsize
        if offsets[0] != position or offsets[1] != position + count or offsets[1] > extent:
            raise _Fault(f"its tensor {short_repr(name)} lies where another one does, or nowhere")
        if max(shape, default=0) > extent + 1:
            raise _Fault(f"its tensor {short_repr(name)} is not valid")
        layout[name] = (dtype, tuple(shape), count)
        position += count
    if position != extent:
        raise _Fault(f"{extent - position} bytes of it belong to nothing")
    return layout, metadata


def _begin(entry: Any) -> tuple[int, int]:
    offsets: Any = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _Fault("its header has an entry that is not a tensor")
    return offsets[0], offsets[1]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)
