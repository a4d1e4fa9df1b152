"""The images of a run as numbers that a checkpoint keeps: a resumed run tells whether they are still the same."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAME, PICTURE, LABELS = range(3)  # columns of a record


def record_of(dataset: Any) -> torch.Tensor:
    """(N, 3) int64, a row for each image in the order of ``dataset``: digests of its name, its picture, its labels.

    The name is that of the file without its folder, so that moved data stay the same. The picture counts by the size
    of its file and its sides; a replaced one that has the same is not noticed, as no file is read.
    """
    rows = [
        (_digest(Path(file).name.encode("utf-8", "surrogateescape")), _digest(_picture(file, sides)),
         _digest(np.ascontiguousarray(labels, dtype=np.float32).tobytes()))
        for file, sides, labels in zip(dataset.im_files, dataset.shapes, dataset.labels, strict=True)
    ]  # fmt: skip
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)


def changes(before: torch.Tensor, now: torch.Tensor) -> str:
    """Return how the images of the record ``now`` differ from those of ``before``, in words; '' where they do not."""
    if torch.equal(before, now):
        return ""
    old, new = _by_name(before), _by_name(now)
    gone = sum(max(len(rows) - len(new.get(name, ())), 0) for name, rows in old.items())
    added = sum(max(len(rows) - len(old.get(name, ())), 0) for name, rows in new.items())
    changed = {
        column: sum(
            _different(old[name], new[name], column) for name in old.keys() & new.keys() if old[name] != new[name]
        )
        for column in (PICTURE, LABELS)
    }
    words = [
        f"{gone} of {len(before)} images are gone" * bool(gone),
        f"{added} images are new" * bool(added),
        f"{changed[PICTURE]} images are replaced" * bool(changed[PICTURE]),
        f"the labels of {changed[LABELS]} images are different" * bool(changed[LABELS]),
    ]
    return ", ".join(filter(None, words)) or "the images come in another order"


def _picture(file: str, sides: np.ndarray) -> bytes:
    try:
        size = os.stat(file).st_size
    except OSError:
        size = -1
    return f"{size} {int(sides[0])} {int(sides[1])}".encode()


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def _by_name(record: torch.Tensor) -> dict[int, list[list[int]]]:
    found: dict[int, list[list[int]]] = defaultdict(list)
    for row in record.tolist():
        found[row[NAME]].append(row)
    return {name: sorted(rows) for name, rows in found.items()}


def _different(old: list[list[int]], new: list[list[int]], column: int) -> int:
    """Return how many of the rows of one name have no counterpart in ``column``."""
    before, after = Counter(row[column] for row in old), Counter(row[column] for row in new)
    return min((before - after).total(), (after - before).total())
