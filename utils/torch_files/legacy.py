"""The format of ``torch.save`` before torch 1.6: consecutive pickles, then the numbers, without checksums."""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from utils.torch_files.machine import Machine
from utils.torch_files.records import Damage, Refusal, Storage
from utils.torch_files.unpickle import interpret

# The first two pickles are always the same: a number, and the version of the format
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."
_COUNT = struct.Struct("<q")
_NOTHING = torch.empty(0, dtype=torch.uint8)


def read_legacy(data: bytes, modules: Collection[str]) -> tuple[Any, Machine, int]:
    """The records of a file, the machine that read them, and the position of the numbers."""
    if not data.startswith(MAGIC + VERSION):
        raise Damage("it is of an unknown version of the old format")
    system = Machine(data, modules, len(MAGIC + VERSION))
    if not isinstance(facts := interpret(system), dict) or facts.get("little_endian") is not True:
        raise Refusal("it was written on a machine that stores numbers the other way round")
    machine = Machine(data, modules, system.position)
    content = interpret(machine)
    return content, machine, machine.position


def legacy_storages(data: bytes, storages: dict[str, Storage], position: int) -> dict[str, Tensor]:
    """The bytes of each storage: a pickled list of keys, then for each a count and the numbers."""
    machine = Machine(data, (), position)
    keys = interpret(machine)
    position = machine.position
    if type(keys) is not list or any(type(key) is not str for key in keys) or len(set(keys)) != len(keys):
        raise Damage("its list of numbers is not valid")
    if set(keys) != set(storages):
        raise Damage("it does not have the numbers that its tensors need, or others")
    contents = {}
    for key in keys:
        storage = storages[key]
        start = position + _COUNT.size
        length = storage.count * storage.dtype.itemsize
        position = start + length
        if position > len(data):
            raise Damage("incomplete")
        if _COUNT.unpack_from(data, start - _COUNT.size) != (storage.count,):
            raise Damage(f"it has another count of the numbers {key} than its tensors need")
        contents[key] = torch.frombuffer(bytearray(data[start:position]), dtype=torch.uint8) if length else _NOTHING
    if position != len(data):
        raise Damage(f"{len(data) - position} bytes at its end belong to nothing")
    return contents
