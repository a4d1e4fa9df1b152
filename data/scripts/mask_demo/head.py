"""The geometry of a head: where a point of the face lies once the head is turned.

Face coordinates: x from -1 (our left) to 1, y from -1 (top of the skull) to 1 (chin), seen from the front. They lie
on a sphere, which is turned, projected straight onto the picture, stretched to the height of a head and narrowed
towards the chin. The picture's unit is half the width of the head, its origin the centre of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.scripts.mask_demo.canvas import Points, smooth

LABEL_TOP = -0.82  # a face is labelled from just above the hairline to the chin


@dataclass(frozen=True)
class Head:
    """A head's shape and direction; angles in degrees: yaw > 0 looks right, pitch > 0 looks down."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    length: float = 1.3  # height over width
    jaw: float = 0.2  # by how much the chin is narrower than the temples

    def shape(self, flat: Points) -> Points:
        """Turn projected sphere coordinates into picture units: narrow the jaw, stretch, tilt."""
        x = flat[:, 0] * (1 - self.jaw * np.clip(flat[:, 1], 0, 1.15) ** 2)
        y = flat[:, 1] * self.length
        cos, sin = np.cos(np.radians(self.roll)), np.sin(np.radians(self.roll))
        return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)

    def turn(self, face_points: Sequence[tuple[float, float]] | Points, lift: float = 1.0) -> tuple[Points, Points]:
        """Return the projected (N, 2) sphere coordinates of face points and their depth (N,), > 0 towards us.

        ``lift`` above 1 raises the points off the skin. Points on the far side are moved to the edge of the head.
        """
        flat = np.asarray(face_points, dtype=np.float64)
        reach = np.maximum(1.0, np.hypot(flat[:, 0], flat[:, 1]))
        x, y = flat[:, 0] / reach, flat[:, 1] / reach
        z = np.sqrt(np.maximum(0.0, 1 - x * x - y * y))
        yaw, pitch = np.radians(self.yaw), np.radians(self.pitch)
        x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
        y, z = y * np.cos(pitch) + z * np.sin(pitch), z * np.cos(pitch) - y * np.sin(pitch)
        behind = z < 0
        edge = np.where(behind, np.maximum(np.hypot(x, y), 1e-6), 1.0)
        return np.stack([x / edge, y / edge], axis=1) * (reach * lift)[:, None], z

    def project(self, face_points: Sequence[tuple[float, float]] | Points, lift: float = 1.0) -> Points:
        """Return face points in picture units."""
        return self.shape(self.turn(face_points, lift)[0])

    def curve(
        self, face_points: Sequence[tuple[float, float]] | Points, closed: bool = False, lift: float = 1.0
    ) -> Points:
        """Return a smooth line or outline through face points, in picture units."""
        return self.project(smooth(face_points, closed), lift)

    def outline(self, start: float = 0.0, stop: float = 360.0, lift: float = 1.0) -> Points:
        """Return the edge of the head between two angles in degrees (0 right, 90 chin), in picture units."""
        angles = np.radians(np.linspace(start, stop, 49))
        return self.shape(np.stack([np.cos(angles), np.sin(angles)], axis=1) * lift)

    def box(self) -> tuple[float, float, float, float]:
        """Return the face's bounding box as left, top, right, bottom in picture units."""
        start = float(np.degrees(np.arcsin(LABEL_TOP)))
        points = self.outline(start, 180 - start)
        left, top = points.min(axis=0)
        right, bottom = points.max(axis=0)
        return float(left), float(top), float(right), float(bottom)
