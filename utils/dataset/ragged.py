"""Many short arrays, texts or polygons stored in a few long arrays.

Forked loader processes share their parent's memory until someone writes to it, and Python writes to every object that
it touches, to count references. Each process would soon have its own copy of a hundred thousand small objects. A long
array is one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Ragged(Sequence[np.ndarray]):
    """Arrays (n, ...) of different lengths n, one after the other in ``rows``; each element is a view of its part."""

    def __init__(self, rows: np.ndarray, counts: np.ndarray, starts: np.ndarray | None = None) -> None:
        """``counts`` (N,) are the rows of each element; elements follow one another unless ``starts`` (N,) is given."""
        self.rows, self.counts = rows, counts
        self.starts = np.cumsum(counts, dtype=np.int64) - counts if starts is None else starts

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], like: np.ndarray) -> Ragged:
        """Join arrays that have the dtype and the trailing axes of ``like``."""
        counts = np.array([len(array) for array in arrays], np.int32)
        return cls(np.concatenate([*arrays, like[:0]]), counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]
        start = self.starts[number]
        return self.rows[start : start + self.counts[number]]

    def reordered(self, order: np.ndarray) -> Ragged:
        """Return the elements in another order; the rows are not copied."""
        return Ragged(self.rows, self.counts[order], self.starts[order])


class Texts(Sequence[str]):
    """Strings in one array of bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Encode the strings; file names may consist of any bytes."""
        encoded = [np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8) for text in texts]
        self._bytes = Ragged.of(encoded, np.zeros(0, np.uint8))

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, number: int) -> str:  # type: ignore[override]
        return self._bytes[number].tobytes().decode("utf-8", "surrogateescape")

    def reordered(self, order: np.ndarray) -> Texts:
        """Return the strings in another order."""
        result = Texts(())
        result._bytes = self._bytes.reordered(order)
        return result


class Polygons(Sequence[list[np.ndarray | None]]):
    """For each image a list with the polygon (P, 2) or None of each label; an empty list if no label has a polygon."""

    def __init__(self, points: Ragged, labels: Ragged) -> None:
        """``points`` are those of each label of all images, none for a box; ``labels`` are those of each image."""
        self.points, self._labels = points, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> list[np.ndarray | None]:  # type: ignore[override]
        start = self._labels.starts[number]
        end = start + self._labels.counts[number]
        if not len(self.points.rows) or not self.points.counts[start:end].any():
            return []
        return [self.points[label] if self.points.counts[label] else None for label in range(start, end)]

    def reordered(self, order: np.ndarray) -> Polygons:
        """Return the images' polygons in another order."""
        return Polygons(self.points, self._labels.reordered(order))
