"""Digests of a run's images and labels, stored in checkpoints: a resumed run checks whether they are still the same."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

NAME, PICTURE, LABELS = range(3)  # columns of a record


class ImagesWithLabels(Protocol):
    """A data set, as far as a record needs it; see ``utils.dataset.items.LoadImagesAndLabels``."""

    @property
    def im_files(self) -> Sequence[str]: ...

    @property
    def shapes(self) -> np.ndarray: ...

    @property
    def labels(self) -> Sequence[np.ndarray]: ...


def record_of(dataset: ImagesWithLabels) -> torch.Tensor:
    """Digests (N, 3) int64 of name, picture and labels of each image, in the order of ``dataset``.

    The name is the file's without its folder, so moved data stay the same. The picture is represented by its file size
    and its sides, as no file is read: a replacement with the same three is not noticed.
    """
    rows = []
    for file, sides, labels in zip(dataset.im_files, dataset.shapes, dataset.labels, strict=True):
        name = Path(file).name.encode("utf-8", "surrogateescape")
        label_bytes = np.ascontiguousarray(labels, dtype=np.float32).tobytes()
        rows.append((_digest(name), _digest(_picture(file, sides)), _digest(label_bytes)))
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)


def changes(before: torch.Tensor, now: torch.Tensor) -> str:
    """Describe in words how the record ``now`` differs from ``before``; '' if it does not."""
    if torch.equal(before, now):
        return ""
    old, new = _by_name(before), _by_name(now)
    gone = sum(max(len(rows) - len(new.get(name, ())), 0) for name, rows in old.items())
    added = sum(max(len(rows) - len(old.get(name, ())), 0) for name, rows in new.items())
    changed = [name for name in old.keys() & new.keys() if old[name] != new[name]]
    replaced = sum(_different(old[name], new[name], PICTURE) for name in changed)
    relabelled = sum(_different(old[name], new[name], LABELS) for name in changed)
    findings = {
        f"{gone} of {len(before)} images are gone": gone,
        f"{added} images are new": added,
        f"{replaced} images are replaced": replaced,
        f"the labels of {relabelled} images are different": relabelled,
    }
    words = [text for text, count in findings.items() if count]
    return ", ".join(words) or "the images come in another order"


def _picture(file: str, sides: np.ndarray) -> bytes:
    try:
        size = os.stat(file).st_size
    except OSError:
        size = -1
    return f"{size} {int(sides[0])} {int(sides[1])}".encode()


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def _by_name(record: torch.Tensor) -> dict[int, list[list[int]]]:
    by_name: dict[int, list[list[int]]] = defaultdict(list)
    for row in record.tolist():
        by_name[row[NAME]].append(row)
    return {name: sorted(rows) for name, rows in by_name.items()}


def _different(old: list[list[int]], new: list[list[int]], column: int) -> int:
    """Number of rows of one name that have no counterpart in ``column``."""
    before = Counter(row[column] for row in old)
    after = Counter(row[column] for row in new)
    return min((before - after).total(), (after - before).total())
