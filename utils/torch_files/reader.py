"""Read one file of ``torch.save`` into checked records and the numbers that they refer to."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from utils.torch_files.container import SIGNATURE, ZipContainer
from utils.torch_files.judge import judge
from utils.torch_files.legacy import MAGIC, legacy_storages, read_legacy
from utils.torch_files.machine import Machine
from utils.torch_files.records import FILE_BYTES, PICKLE_BYTES, Damage, ForeignName, ModuleRecord, Refusal, Storage
from utils.torch_files.unpickle import interpret

LONGEST_NOTE = 1024  # bytes of an entry with metadata of torch.save


@dataclass
class Content:
    """The content of a file.

    Attributes:
        value: its records (``records``), checked. storages: the bytes (uint8) of each storage that they refer to.
        modules: all records of modules in it. names: the classes and functions that its pickle names, in order.
    """

    value: Any
    storages: dict[str, Tensor]
    modules: list[ModuleRecord]
    names: list[str]


def read_torch_file(path: str | Path, modules: Collection[str]) -> Content:
    """Read a file without creating any object that it describes.

    Args:
        path: the file.
        modules: paths of the module classes that it may name.

    Raises:
        Refusal: it is damaged (Damage), names other classes (ForeignName), or holds more than tensors and plain values.
    """
    with open(path, "rb") as stream:
        head = stream.read(max(len(MAGIC), 4))
        if not head:
            raise Damage("empty")
        if os.fstat(stream.fileno()).st_size > FILE_BYTES:
            raise Refusal(f"it has more than {FILE_BYTES // 2**30} GiB")
        if head.startswith(SIGNATURE[:2]):
            return _read_zip(stream, modules)
        return _read_old(stream, modules, head)


def _read_zip(stream: BinaryIO, known: Collection[str]) -> Content:
    archive = ZipContainer(stream)
    _check_entries(archive)
    machine = Machine(archive.read("data.pkl"), known)
    value = interpret(machine)
    if machine.position != len(machine.data):
        raise Damage(f"{len(machine.data) - machine.position} bytes behind its pickle belong to nothing")
    modules = judge(value, archive.size)
    expected = {f"data/{key}": storage for key, storage in machine.storages.items()}
    present = {name for name in archive.entries if name.startswith("data/")}
    for name in (*sorted(expected.keys() - present)[:1], *sorted(present - expected.keys())[:1]):
        raise Damage(f"its entry {name!r} is {'missing' if name in expected else 'referred to by nothing'}")
    storages = {}
    for entry in archive.order:  # in the order of the file
        if entry.name in expected:
            storage = expected[entry.name]
            if entry.size != storage.count * storage.dtype.itemsize:
                raise Damage(f"its entry {entry.name!r} has another size than its tensors need")
            storages[storage.key] = _checked_numbers(storage, archive.read_tensor(entry.name))
        elif entry.name != "data.pkl":
            archive.read_tensor(entry.name)  # to compare its checksum
    return Content(value, storages, modules, machine.names)


def _check_entries(archive: ZipContainer) -> None:
    """Refuse entries other than the pickle, the numbers, and torch.save's version, byte order and identity."""
    for name, entry in archive.entries.items():
        known = name in ("data.pkl", "version", "byteorder") or name.startswith(("data/", "."))
        if not known:
            raise Refusal(f"it has an entry {name!r}, which no checkpoint has")
        if entry.size > LONGEST_NOTE and not name.startswith("data"):
            raise Refusal(f"its entry {name!r} has {entry.size} bytes, and torch.save keeps a note of a few there")
    if "byteorder" in archive.entries and archive.read("byteorder") != b"little":
        raise Refusal("it was written on a machine that stores numbers the other way round")


def _checked_numbers(storage: Storage, content: Tensor) -> Tensor:
    if storage.dtype is torch.bool and content.numel() and int(content.max()) > 1:
        raise Damage(f"the truth values {storage.key} are not 0 or 1")
    return content


def _read_old(stream: BinaryIO, modules: Collection[str], head: bytes) -> Content:
    """Read the format before the zip archive; a bare pickle is refused, if possible with the foreign class it names."""
    if not head.startswith(MAGIC):
        try:
            interpret(Machine(head + stream.read(PICKLE_BYTES), modules))
        except ForeignName:
            raise
        except Refusal:
            pass
        raise Refusal("another kind")
    data = head + stream.read()
    value, machine, position = read_legacy(data, modules)
    module_records = judge(value, len(data))
    contents = legacy_storages(data, machine.storages, position)
    storages = {key: _checked_numbers(machine.storages[key], content) for key, content in contents.items()}
    return Content(value, storages, module_records, machine.names)
