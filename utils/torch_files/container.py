"""The zip archive of ``torch.save``: every byte is accounted for, and every checksum compared.

zipfile follows the index alone and does not see bytes outside the indexed ranges, or headers that contradict the index.
``torch.save`` stores its entries in one way only: consecutive, uncompressed, in one folder.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from utils.torch_files.records import PICKLE_BYTES, Damage, Refusal

SIGNATURE = b"PK\x03\x04"
MOST_ENTRIES = 200_000
MOST_INDEX_BYTES = 64 * 2**20
_END = struct.Struct("<4s4H2LH")  # at the end of the file
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_INDEX_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")
_UTF8, _SIZES_BEHIND = 0x800, 0x8
_IN_64_BITS = 0xFFFFFFFF


@dataclass
class Entry:
    """One stored file: its name without the common folder, and its fields in the index."""

    name: str
    full_name: bytes
    flags: int
    method: int
    crc: int
    size: int
    packed_size: int
    header_offset: int


class ZipContainer:
    """The entries of an archive."""

    def __init__(self, stream: BinaryIO) -> None:
        """Read the index of ``stream``. Raises Damage or Refusal if ``torch.save`` did not write it."""
        self.stream = stream
        self.size = stream.seek(0, 2)
        self.index_offset, count, index = self._read_index()
        entries = _parse_index(index, count)
        roots = {entry.full_name.split(b"/")[0] for entry in entries}
        self.entries = {entry.name: entry for entry in entries}
        if any(name.endswith("constants.pkl") or name.startswith("code/") for name in self.entries):
            raise Refusal("TorchScript")
        if "data.pkl" not in self.entries:
            raise Refusal("another archive")
        if len(roots) != 1:
            raise Damage("its entries lie in several folders")
        if len(self.entries) != len(entries):
            raise Damage("it has two entries of one name")
        packed = next((entry for entry in entries if entry.method or entry.size != entry.packed_size), None)
        if packed:
            raise Refusal(f"its entry {packed.name!r} is compressed, and torch.save never compresses")
        strange = next((entry for entry in entries if entry.flags & ~(_UTF8 | _SIZES_BEHIND)), None)
        if strange:
            raise Refusal(f"its entry {strange.name!r} is encrypted or of an unknown kind")
        self.order = sorted(entries, key=lambda entry: entry.header_offset)
        ends = [entry.header_offset for entry in self.order[1:]] + [self.index_offset]
        self.ends = {entry.name: end for entry, end in zip(self.order, ends, strict=True)}
        if self.order[0].header_offset:
            raise Damage("something lies before its first entry")

    def _at(self, offset: int, count: int) -> bytes:
        if offset < 0 or offset + count > self.size:
            raise Damage("its index points out of the file")
        self.stream.seek(offset)
        content = self.stream.read(count)
        if len(content) != count:
            raise Damage("it became shorter while it was read")
        return content

    def _read_index(self) -> tuple[int, int, bytes]:
        """Return the offset of the index, its number of entries, and its bytes."""
        position = self.size - _END.size
        end = _END.unpack(self._at(position, _END.size)) if position >= 0 else (b"",)
        if end[0] != b"PK\x05\x06":
            raise Damage("incomplete")
        _, disk, index_disk, here, count, length, offset, comment = end
        extent = (here, count, length, offset)
        before = position - _LOCATOR_64.size
        if before >= 0 and self._at(before, 4) == b"PK\x06\x07":
            _, locator_disk, position, disks = _LOCATOR_64.unpack(self._at(before, _LOCATOR_64.size))
            fields = _END_64.unpack(self._at(position, _END_64.size))
            extent_64 = fields[6:]
            same = all(
                value in (exact, cut)
                for value, exact, cut in zip(extent, extent_64, (0xFFFF, 0xFFFF, *[_IN_64_BITS] * 2), strict=True)
            )
            good = fields[:2] == (b"PK\x06\x06", _END_64.size - 12) and position + _END_64.size == before
            if not good or not same or locator_disk or disks != 1 or any(fields[4:6]):
                raise Damage("the two ends of its index contradict each other")
            here, count, length, offset = extent_64
        if disk or index_disk or comment or here != count or offset + length != position:
            raise Damage("its index does not end where the file does")
        if not 0 < count <= MOST_ENTRIES or length > MOST_INDEX_BYTES:
            raise Refusal(f"it has {count} entries")
        return offset, count, self._at(offset, length)

    def read(self, name: str, most: int = PICKLE_BYTES) -> bytes:
        """The content of a small entry."""
        size = self.entries[name].size
        if size > most:
            raise Refusal(f"its entry {name!r} has {size} bytes")
        return self._content(self.entries[name]).numpy().tobytes()

    def read_tensor(self, name: str) -> Tensor:
        """The content of an entry, as a tensor of bytes."""
        return self._content(self.entries[name])

    def _content(self, entry: Entry) -> Tensor:
        start = self._check_header(entry)
        behind = self.ends[entry.name] - start - entry.size
        if behind < 0:
            raise Damage(f"its entry {entry.name!r} overlaps another one")
        self.stream.seek(start)
        content = torch.empty(entry.size, dtype=torch.uint8)
        array: Any = content.numpy()
        bytes_view = memoryview(array)
        if self.stream.readinto(bytes_view) != entry.size:  # type: ignore[attr-defined]
            raise Damage("it became shorter while it was read")
        if zlib.crc32(bytes_view) != entry.crc:
            raise Damage(f"the checksum of its entry {entry.name!r} is wrong")
        self._check_descriptor(entry, self.stream.read(behind) if behind <= 24 else b"", behind)
        return content

    def _check_header(self, entry: Entry) -> int:
        """Compare an entry's own header with the index; returns where its content begins."""
        fields = _HEADER.unpack(self._at(entry.header_offset, _HEADER.size))
        signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
        name = self.stream.read(name_length)
        extra = self.stream.read(extra_length)
        if size == packed == _IN_64_BITS:
            size, packed = _in_64_bits(extra, size, packed)
        stated = (crc, packed, size)
        behind = flags & _SIZES_BEHIND and stated == (0, 0, 0)
        same = behind or stated == (entry.crc, entry.packed_size, entry.size)
        if signature != SIGNATURE or (flags, method, name) != (entry.flags, entry.method, entry.full_name) or not same:
            raise Damage(f"its index contradicts the header of {entry.name!r}")
        start = entry.header_offset + _HEADER.size + name_length + extra_length
        if start + entry.size > self.index_offset:
            raise Damage(f"its entry {entry.name!r} reaches into the index")
        return start

    def _check_descriptor(self, entry: Entry, content: bytes, length: int) -> None:
        """Require that nothing follows an entry but its checksum and sizes, repeated."""
        expected = []
        if entry.flags & _SIZES_BEHIND:
            for layout in ("<LLL", "<LQQ"):
                if entry.size <= _IN_64_BITS or layout == "<LQQ":
                    numbers = struct.pack(layout, entry.crc, entry.packed_size, entry.size)
                    expected += [numbers, b"PK\x07\x08" + numbers]
        if length and (len(content) != length or content not in expected):
            raise Damage(f"{length} bytes behind its entry {entry.name!r} belong to nothing")


def _parse_index(index: bytes, count: int) -> list[Entry]:
    entries = []
    position = 0
    for _ in range(count):
        if position + _INDEX_ENTRY.size > len(index):
            raise Damage("its index is shorter than it says")
        fields = _INDEX_ENTRY.unpack_from(index, position)
        signature, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length = fields[:13]
        disk = fields[13]
        offset = fields[16]
        position += _INDEX_ENTRY.size
        name = index[position : position + name_length]
        extra = index[position + name_length : position + name_length + extra_length]
        position += name_length + extra_length
        if signature != b"PK\x01\x02" or disk or comment_length or position > len(index):
            raise Damage("its index is not valid")
        size, packed, offset = _in_64_bits(extra, size, packed, offset)
        entries.append(Entry(_inner_name(name), name, flags, method, crc, size, packed, offset))
    if position != len(index):
        raise Damage("its index is longer than it says")
    return entries


def _in_64_bits(extra: bytes, *numbers: int) -> list[int]:
    """The numbers; those that do not fit into 32 bits are taken from the extra field."""
    large = [index for index, number in enumerate(numbers) if number == _IN_64_BITS]
    exact = list(numbers)
    position = 0
    while large and position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        field = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if kind == 1 and len(field) >= 8 * len(large):
            for index, value in zip(large, struct.unpack_from(f"<{len(large)}Q", field), strict=True):
                exact[index] = value
            return exact
    if large:
        raise Damage("its index has no sizes")
    return exact


def _inner_name(name: bytes) -> str:
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        raise Damage("its index has an impossible name") from None
    plain = not {"", ".", ".."} & set(text.split("/"))  # other readers could take it for another entry
    if not plain or len(name) > 512 or not text.isprintable() or "\\" in text:
        raise Damage("its index has an impossible name")
    return text.split("/", 1)[-1]
