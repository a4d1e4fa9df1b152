"""Many short arrays, texts or polygons in a few long arrays.

Loader processes that are forked share the memory of their parent as long as nobody writes to it, and Python writes to
every object that it touches: it counts references. Of a hundred thousand small objects each process would soon have a
copy of its own. A long array is one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class Ragged(Sequence[np.ndarray]):
    """Arrays (n, ...) of different lengths n, one behind the other in ``rows``; each element is a view of its part."""

    def __init__(self, rows: np.ndarray, counts: np.ndarray, starts: np.ndarray | None = None) -> None:
        """``counts`` (N,) rows for each element, which lie in this order unless ``starts`` (N,) says where."""
        self.rows, self.counts = rows, counts
        self.starts = np.cumsum(counts, dtype=np.int64) - counts if starts is None else starts

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], like: np.ndarray) -> Ragged:
        """Join arrays of the type and the further axes of ``like``."""
        counts = np.array([len(array) for array in arrays], np.int32)
        return cls(np.concatenate([*arrays, like[:0]]), counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, number: Any) -> Any:
        start = self.starts[number]
        return self.rows[start : start + self.counts[number]]

    def reordered(self, order: np.ndarray) -> Ragged:
        """The elements in another order; the rows stay where they are."""
        return Ragged(self.rows, self.counts[order], self.starts[order])


class Texts(Sequence[str]):
    """Texts as one array of bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Keep these texts; file names of any bytes are possible."""
        encoded = [np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8) for text in texts]
        self._bytes = Ragged.of(encoded, np.zeros(0, np.uint8))

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, number: Any) -> Any:
        return self._bytes[number].tobytes().decode("utf-8", "surrogateescape")

    def reordered(self, order: np.ndarray) -> Texts:
        """The texts in another order."""
        result = Texts(())
        result._bytes = self._bytes.reordered(order)
        return result


class Polygons(Sequence[list[np.ndarray | None]]):
    """For each image the polygon (P, 2) of each label, None where a label has none; an empty list if none has one."""

    def __init__(self, points: Ragged, labels: Ragged) -> None:
        """``points`` of each label of all images, without points for a box; ``labels`` of each image."""
        self.points, self._labels = points, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: Any) -> Any:
        start = self._labels.starts[number]
        end = start + self._labels.counts[number]
        if not len(self.points.rows) or not self.points.counts[start:end].any():
            return []
        return [self.points[label] if self.points.counts[label] else None for label in range(start, end)]

    def reordered(self, order: np.ndarray) -> Polygons:
        """Those of the images in another order."""
        return Polygons(self.points, self._labels.reordered(order))
