"""Polygons as arrays (points, 2) of x, y. Only their bounding boxes become training targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def xyn2xy(x: np.ndarray, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> np.ndarray:
    """Points (N, 2) as fractions of an image of ``w`` x ``h`` -> pixels, where that image lies at (padw, padh)."""
    return x[:, :2] * np.array([w, h], x.dtype) + np.array([padw, padh], x.dtype)


def segment2box(segment: np.ndarray, width: float = 640, height: float = 640) -> np.ndarray:
    """Box (x1, y1, x2, y2) around the points (N, 2) inside an image; zeros if there are none, or if all have x = 0."""
    inside = segment[((segment >= 0) & (segment <= (width, height))).all(1)]  # (K, 2)
    if not inside[:, 0].any():
        return np.zeros(4)
    return np.concatenate((inside.min(0), inside.max(0)))


def segments2boxes(segments: Iterable[np.ndarray]) -> np.ndarray:
    """Polygons -> boxes (N, 4) as centre x, centre y, width, height, in the unit of the points."""
    corners = np.array([(*polygon.min(0), *polygon.max(0)) for polygon in segments]).reshape(-1, 4)
    low, high = corners[:, :2], corners[:, 2:]  # (N, 2) each
    return np.concatenate(((low + high) / 2, high - low), 1)


def resample_segments(segments: Sequence[np.ndarray], n: int = 1000) -> list[np.ndarray]:
    """Close each polygon (P, 2) and put ``n`` points on its outline -> list of (n, 2).

    Every edge gets about the same number of points, whatever its length.
    """
    resampled = []
    for polygon in segments:
        closed = np.concatenate((polygon, polygon[:1]))  # (P + 1, 2)
        position = np.linspace(0, len(polygon), n)  # (n,) in edges from the first corner
        lower = np.minimum(position.astype(int), len(polygon) - 1)  # (n,) the corner before
        part = (position - lower)[:, None]  # (n, 1) of the edge
        resampled.append(closed[lower] * (1 - part) + closed[lower + 1] * part)
    return resampled
