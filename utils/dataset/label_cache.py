"""Cache of all labels of a split: written after a scan, used until an image or a label file changes.

The file is a NumPy archive (``.npz``) of plain arrays and a JSON text; reading it cannot execute anything.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.dataset.images import damage_of
from utils.dataset.labels import (
    BOX_FIELDS,
    IGNORING,
    ImageRecord,
    check_class_indices,
    find_images,
    img2label_paths,
    verify_image_label,
)
from utils.dataset.ragged import Polygons, Ragged, Texts
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import atomic_path

FORMAT_VERSION = 1
POOL_FROM_IMAGES = 2048  # with fewer images, starting processes takes longer than the scan
COUNTERS = ("found", "missing", "empty", "corrupt")
ARRAYS = ("sizes", "rows", "labels", "points", "polygons")
UNREADABLE = (  # raised when a file with arbitrary content is read
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass
class LabelTable:
    """The usable images of a split and their labels, in the order of ``images``."""

    images: Texts
    sizes: np.ndarray  # (N, 2) width and height in pixels
    labels: Ragged  # for each image (n, 5) float32: class, normalised xywh
    segments: Polygons  # for each image
    counts: dict[str, int]  # for each of COUNTERS
    messages: list[str]


def load_labels(path: str | Path | Sequence[str | Path], prefix: str = "") -> tuple[LabelTable, Path]:
    """Read the labels of a split from its cache, or scan its files and write the cache.

    Warnings name damaged images and labels; one line gives the totals.

    Returns:
        The labels, and the path of the cache.

    Raises:
        InputError: no image is usable.
    """
    images = find_images(path)
    label_files = img2label_paths(images)
    cache = cache_path(path, label_files)
    digest = files_hash([*label_files, *images])
    table = read_cache(cache, digest)
    if table is not None and not set(table.images) <= set(images):
        table = None  # not written by this program
    fresh = table is None
    if table is None:
        table = scan(images, label_files, f"{prefix}Scanning '{cache.with_suffix('')}'")
    for message in table.messages:
        LOGGER.warning(f"{prefix}{message}")
    totals = ", ".join(f"{table.counts[counter]} {counter}" for counter in COUNTERS)
    LOGGER.info(f"{prefix}Scanning '{cache.with_suffix('') if fresh else cache}' images and labels... {totals}")
    if not table.images:
        first = table.messages[0].removeprefix(IGNORING)
        raise InputError(f"none of the {len(images)} images of {path} is usable; the first is {first}")
    if fresh:
        write_cache(cache, digest, table)
    return table, cache


def check_labels(path: str | Path | Sequence[str | Path], names: Mapping[int, str] | Sequence[str]) -> None:
    """Raise InputError if a label of a split has a class that is not one of ``names``."""
    table, _ = load_labels(path)
    check_class_indices(table.labels, img2label_paths(table.images), len(names), names)


def cache_path(path: str | Path | Sequence[str | Path], label_files: Sequence[str]) -> Path:
    """File of a split's cache: ``list.txt`` -> ``list.cache``, else the folder of the first label file + ``.cache``."""
    last = Path(path if isinstance(path, (str, Path)) else list(path)[-1])
    if last.suffix == ".txt" and last.is_file():
        return last.with_suffix(".cache")
    return Path(f"{Path(label_files[0]).absolute().parent}.cache")  # not with_suffix: the folder's name may have a dot


def files_hash(files: Iterable[str], more: str = "") -> str:
    """MD5 of the names, sizes and modification times of files, and of ``more``; absent files count by their names."""
    digest = hashlib.md5(more.encode(), usedforsecurity=False)
    for file in files:
        try:
            status = os.stat(file)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "absent"
        digest.update(f"{file}\0{state}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


# -- scanning ------------------------------------------------------------------------------------------------------


def scan(images: Sequence[str], label_files: Sequence[str], description: str = "") -> LabelTable:
    """Check every image and its label file; on terminals a progress bar is shown."""
    counts = dict.fromkeys(COUNTERS, 0)
    messages = []
    usable: list[tuple[str, ImageRecord]] = []
    with closing(_records(images, label_files)) as records:
        progress = tqdm(records, desc=description, total=len(images), disable=None, leave=False)
        for image, record in zip(images, progress, strict=True):
            for counter in COUNTERS:
                counts[counter] += getattr(record, counter)
            if record.message:
                messages.append(record.message)
            if record.usable:
                usable.append((image, record))
    return _table_of([image for image, _ in usable], [record for _, record in usable], counts, messages)


def _table_of(
    images: Sequence[str], records: Sequence[ImageRecord], counts: dict[str, int], messages: list[str]
) -> LabelTable:
    no_points = np.zeros((0, 2), np.float32)
    polygons = []  # (P, 2) of each label
    for record in records:
        for polygon in record.segments or [None] * len(record.labels):
            polygons.append(no_points if polygon is None else polygon)
    points = Ragged.of(polygons, no_points)
    labels = Ragged.of([record.labels for record in records], np.zeros((0, BOX_FIELDS), np.float32))
    sizes = np.array([record.size for record in records], np.int32).reshape(-1, 2)
    return LabelTable(Texts(images), sizes, labels, Polygons(points, labels), counts, messages)


def _records(images: Sequence[str], label_files: Sequence[str]) -> Generator[ImageRecord, None, None]:
    pairs = zip(images, label_files, strict=True)
    processes = min(8, os.cpu_count() or 1)
    if len(images) < POOL_FROM_IMAGES or processes < 2:
        yield from (_verify(pair) for pair in pairs)
        return
    with Pool(processes) as pool:
        yield from pool.imap(_verify, pairs, chunksize=32)


def _verify(pair: tuple[str, str]) -> ImageRecord:
    return verify_image_label(*pair)


# -- the file ------------------------------------------------------------------------------------------------------


def write_cache(cache: Path, digest: str, table: LabelTable) -> None:
    """Write the table. If that is not possible, a warning says so, and the next start scans again.

    Where not even the folder of the labels exists, there are no labels to keep, and nothing is written.
    """
    if not cache.parent.is_dir():
        return
    points = table.segments.points
    header = {
        "version": FORMAT_VERSION,
        "hash": digest,
        "images": list(table.images),
        "counts": table.counts,
        "messages": table.messages,
    }
    arrays: dict[str, Any] = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        "sizes": table.sizes,
        "rows": table.labels.counts,  # of each image
        "labels": table.labels.rows,
        "points": points.counts,  # of each label; 0 for a box
        "polygons": points.rows,
    }
    try:
        with atomic_path(cache, sync=False) as draft, open(draft, "wb") as stream:
            np.savez(stream, **arrays)
    except OSError as error:
        LOGGER.warning(
            f"WARNING: cannot write the label cache {cache} ({error.strerror or error}): continuing without it"
        )


def read_cache(cache: Path, digest: str) -> LabelTable | None:
    """Read the table for files with this hash; None if there is no cache, or it is outdated, damaged or foreign."""
    stored = _read(cache)
    return stored[1] if stored is not None and stored[0] == digest else None


def forget_images(cache: Path, images: Iterable[str]) -> None:
    """Remove those of ``images`` from a cache that cannot be decoded: they count as corrupt from now on.

    Images that are missing, or out of reach for a while, stay: if they change, so does the hash of the cache.
    """
    reasons = {}
    for image in images:
        reason = damage_of(image)
        if reason:
            reasons[image] = reason
    stored = _read(cache) if reasons else None
    if stored is None:
        return
    digest, table = stored
    kept = [number for number, image in enumerate(table.images) if image not in reasons]
    gone = [image for image in table.images if image in reasons]
    if not gone:
        return
    for image, label_file in zip(gone, img2label_paths(gone), strict=True):
        counter = "found" if os.path.isfile(label_file) else "missing"
        table.counts[counter] = max(table.counts[counter] - 1, 0)
        table.counts["corrupt"] += 1
        table.messages.append(f"{IGNORING}{image}: {reasons[image].removeprefix(f'{image} ')}")
    records = [
        ImageRecord(size=table.sizes[number], labels=table.labels[number], segments=table.segments[number])
        for number in kept
    ]
    images = [table.images[number] for number in kept]
    write_cache(cache, digest, _table_of(images, records, table.counts, table.messages))


def _read(cache: Path) -> tuple[str, LabelTable] | None:
    """Hash and table in a cache; None if there is no cache, or it is damaged or foreign."""
    try:
        _check_sizes(cache)
        with np.load(cache, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            if header["version"] != FORMAT_VERSION:
                return None
            arrays = {name: archive[name] for name in ARRAYS}
            return header["hash"], _table_from(header, arrays)
    except FileNotFoundError:
        return None
    except UNREADABLE:
        LOGGER.info(f"{cache} is not a label cache of this program, or is damaged: scanning again")
        return None


def _check_sizes(cache: Path) -> None:
    """Raise ValueError if reading could take more memory than the file's size: compression, or too large an array."""
    with zipfile.ZipFile(cache) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError("a member is compressed")
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read_head = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                if read_head is None:
                    raise ValueError("an array has another format")
                shape, _, dtype = read_head(stream)
                if math.prod(shape) * dtype.itemsize != member.file_size - stream.tell():
                    raise ValueError("an array has another size than it states")


def _table_from(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> LabelTable:
    """Make the table of a cache. Raises ValueError if its parts are not consistent."""
    rows, points = arrays["rows"], arrays["points"]
    labels, sizes = arrays["labels"], arrays["sizes"]
    sound = (
        rows.ndim == points.ndim == 1
        and len(header["images"]) == len(rows) == len(sizes)
        and rows.sum() == len(points) == len(labels)
        and points.sum() == len(arrays["polygons"])
        and labels.shape[1:] == (BOX_FIELDS,)
        and sizes.shape[1:] == arrays["polygons"].shape[1:] == (2,)
        and min(rows.min(initial=0), points.min(initial=0), sizes.min(initial=1) - 1) >= 0
        and [rows.dtype, points.dtype, sizes.dtype] == [np.int32] * 3
        and labels.dtype == arrays["polygons"].dtype == np.float32
        and (labels >= 0).all()  # false for NaN, too
        and all(isinstance(image, str) for image in header["images"])
    )
    if not sound:
        raise ValueError("the parts of the cache do not fit together")
    of_images = Ragged(labels, rows)
    return LabelTable(
        images=Texts(header["images"]),
        sizes=arrays["sizes"],
        labels=of_images,
        segments=Polygons(Ragged(arrays["polygons"], points), of_images),
        counts={counter: int(header["counts"][counter]) for counter in COUNTERS},
        messages=[str(message) for message in header["messages"]],
    )
