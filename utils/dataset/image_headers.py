"""Heads of JPEG and PNG files, checked so strictly that common files need no decoder.

JPEG: ITU-T T.81, annex B, with the limits of libjpeg; Exif: CIPA DC-008. PNG: ISO/IEC 15948.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field

JPEG_START, JPEG_END, JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
PNG_START = b"\x89PNG\r\n\x1a\n"
EXIF_MARK = b"Exif\0\0"
ORIENTATION_TAG = 274
EXIF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # by type of value
EXCHANGE_SIDES = (5, 6, 7, 8)  # orientations that exchange width and height
SOF_PLAIN, SOF_EXTENDED, SOF_PROGRESSIVE, DHT, EOI, SOS, DQT, DRI, COM = b"\xc0\xc1\xc2\xc4\xd9\xda\xdb\xdd\xfe"
AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the next marker other than a restart
APP_FIRST, APP_EXIF, APP_LAST = 0xE0, 0xE1, 0xEF
LONGEST_JPEG_SIDE = 65500  # of libjpeg
LARGEST_UNIT_BLOCKS = 10  # of a scan with several components
LONGEST_PNG_SIDE = 1_000_000  # of libpng
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by type of colour
PNG_PALETTE_TYPE = 3
PNG_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
PNG_ASK_DECODER = (b"eXIf", b"acTL", b"fcTL", b"fdAT")  # orientation and animation: decoders differ


class Unusual(Exception):
    """The head contains something that decoders may interpret differently or refuse."""


@dataclass
class _Jpeg:
    """The part of a JPEG that has been read so far."""

    size: tuple[int, int] = (0, 0)
    components: dict[int, int] = field(default_factory=dict)  # identifier -> quantization table
    quantization: set[int] = field(default_factory=set)
    huffman: set[tuple[int, int]] = field(default_factory=set)  # (class, number)
    orientation: int | None = None
    progressive: bool = False


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """(width, height), after the Exif rotation, of a JPEG whose segments are flawless; None if only a decoder can tell.

    For a baseline JPEG the segments up to the first scan count, so ``content`` may be the beginning of the file; for a
    progressive one all segments count.
    """
    try:
        return _jpeg_size(content)
    except (Unusual, struct.error, IndexError):
        return None


def _jpeg_size(content: bytes) -> tuple[int, int]:
    head, position, scans = _Jpeg(), len(JPEG_START), 0
    while not scans or head.progressive:
        if content[position] != 0xFF:
            raise Unusual
        while content[position] == 0xFF:
            position += 1
        marker = content[position]
        if marker == EOI and scans:
            break
        (length,) = struct.unpack_from(">H", content, position + 1)
        body = content[position + 3 : position + 1 + length]
        if len(body) != length - 2:
            raise Unusual
        position += 1 + length
        if marker in (SOF_PLAIN, SOF_EXTENDED, SOF_PROGRESSIVE):
            head.progressive = marker == SOF_PROGRESSIVE
            _frame(head, body)
        elif marker == DQT:
            _quantization_tables(head, body)
        elif marker == DHT:
            _huffman_tables(head, body)
        elif marker == APP_EXIF and body.startswith(EXIF_MARK):
            if head.orientation is not None:
                raise Unusual
            head.orientation = exif_orientation(body[len(EXIF_MARK) :])
        elif marker == SOS:
            _scan(head, body)
            scans += 1
            if head.progressive:
                following = AFTER_SCAN.search(content, position)
                position = following.start() if following else len(content)
        elif not (APP_FIRST <= marker <= APP_LAST or marker == COM or (marker == DRI and length == 4)):
            raise Unusual
    width, height = head.size
    return (height, width) if head.orientation in EXCHANGE_SIDES else (width, height)


def _frame(head: _Jpeg, body: bytes) -> None:
    precision, height, width, count = struct.unpack_from(">BHHB", body)
    parts = [body[start : start + 3] for start in range(6, 6 + 3 * count, 3)]
    factors = [(part[1] >> 4, part[1] & 15) for part in parts]
    plain = (
        not head.components
        and precision == 8
        and count in (1, 3)
        and len(body) == 6 + 3 * count
        and 0 < min(width, height) <= max(width, height) <= LONGEST_JPEG_SIDE
        and all(factor in (1, 2, 4) for pair in factors for factor in pair)
        and sum(across * down for across, down in factors) <= LARGEST_UNIT_BLOCKS
    )
    head.size, head.components = (width, height), {part[0]: part[2] for part in parts}
    if not plain or len(head.components) != count:
        raise Unusual


def _quantization_tables(head: _Jpeg, body: bytes) -> None:
    position = 0
    while position < len(body):
        wide, number = body[position] >> 4, body[position] & 15
        position += 1 + 64 * (wide + 1)
        if wide > 1 or number > 3 or position > len(body):
            raise Unusual
        head.quantization.add(number)


def _huffman_tables(head: _Jpeg, body: bytes) -> None:
    position = 0
    while position < len(body):
        table_class, number = body[position] >> 4, body[position] & 15
        counts = body[position + 1 : position + 17]
        symbols = body[position + 17 : position + 17 + sum(counts)]
        position += 17 + sum(counts)
        free = 1  # codes of the current length that do not begin with a shorter one
        for count in counts:
            free = 2 * free - count
            if free < 0:
                raise Unusual
        for_differences = table_class == 0
        if table_class > 1 or number > 3 or position > len(body) or len(symbols) > 256:
            raise Unusual
        if for_differences and any(symbol > 15 for symbol in symbols):
            raise Unusual
        head.huffman.add((table_class, number))


def _scan(head: _Jpeg, body: bytes) -> None:
    count = body[0]
    parts = {body[start]: body[start + 1] for start in range(1, 1 + 2 * count, 2)}
    first, last, approximation = body[-3:]
    high, low = approximation >> 4, approximation & 15
    if head.progressive:
        fits = last == 0 if first == 0 else first <= last < 64 and count == 1
        fits = fits and parts.keys() <= head.components.keys() and (high == 0 or low == high - 1) and low <= 13
        classes = [] if first == 0 and high else [0 if first == 0 else 1]  # refining coefficient 0 needs no table
    else:
        fits = body[-3:] == b"\x00\x3f\x00" and parts.keys() == head.components.keys()
        classes = [0, 1]
    tables = set()
    for numbers in parts.values():
        for table_class in classes:
            tables.add((table_class, numbers >> 4 if table_class == 0 else numbers & 15))
    if not (
        fits
        and 0 < count == len(parts)
        and len(body) == 4 + 2 * count
        and {head.components[part] for part in parts} <= head.quantization
        and tables <= head.huffman
    ):
        raise Unusual


def exif_orientation(content: bytes) -> int:
    """Orientation, 1 to 8, in Exif data; 1 if there is none. Raises Unusual unless the data are well formed."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None:
        raise Unusual
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    if start + 2 + 12 * count > len(content):
        raise Unusual
    orientations = []
    for number in range(count):
        tag, value_type, values, offset = struct.unpack_from(f"{order}HHII", content, start + 2 + 12 * number)
        size = EXIF_BYTES.get(value_type, len(content)) * values
        if size > 4 and offset + size > len(content):  # some decoders then ignore all of the data
            raise Unusual
        if tag == ORIENTATION_TAG:
            (value,) = struct.unpack_from(f"{order}H", content, start + 10 + 12 * number)
            orientations.append(value if (value_type, values) == (3, 1) and 1 <= value <= 8 else 0)
    if len(orientations) > 1 or 0 in orientations:
        raise Unusual
    return orientations[0] if orientations else 1


def png_size(content: bytes) -> tuple[int, int] | None:
    """(width, height) of a complete PNG with correct checksums.

    Returns None if only a decoder can tell: the file is damaged, animated, or may have to be rotated.
    """
    try:
        return _png_size(content)
    except (Unusual, struct.error, IndexError):
        return None


def _png_size(content: bytes) -> tuple[int, int]:
    position, view = len(PNG_START), memoryview(content)
    chunks: list[bytes] = []  # their names
    while not chunks or chunks[-1] != b"IEND":
        (length,) = struct.unpack_from(">I", content, position)
        chunk, end = content[position + 4 : position + 8], position + 8 + length
        (checksum,) = struct.unpack_from(">I", content, end)
        is_critical = chunk[0] < 0x60  # a capital letter
        if zlib.crc32(view[position + 4 : end]) != checksum or (is_critical and chunk not in PNG_CRITICAL):
            raise Unusual
        if chunk in PNG_ASK_DECODER:
            raise Unusual
        chunks.append(chunk)
        position = end + 4
    width, height, depth, colours, compression, filtering, interlace = struct.unpack_from(">IIBBBBB", content, 16)
    sound = (
        chunks[0] == b"IHDR"
        and content[8:12] == b"\0\0\0\x0d"
        and chunks.count(b"IHDR") == 1
        and b"IDAT" in chunks
        and chunks.count(b"PLTE") == int(colours == PNG_PALETTE_TYPE)
        and depth in PNG_DEPTHS.get(colours, ())
        and (compression, filtering) == (0, 0)
        and interlace in (0, 1)
        and 0 < min(width, height) <= max(width, height) <= LONGEST_PNG_SIDE
    )
    if not sound:
        raise Unusual
    return width, height
