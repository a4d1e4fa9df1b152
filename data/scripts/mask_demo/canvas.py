"""Shapes, and a transparent canvas on which people are drawn before they enter a scene."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data.scripts.mask_demo.surfaces import Colour, Picture

Points = NDArray[np.float64]  # (N, 2), x to the right, y down
Corners = Sequence[tuple[float, float]] | Points
SUBPIXEL_BITS = 4


def arc(centre: tuple[float, float], radii: tuple[float, float], start: float = 0.0, stop: float = 360.0) -> Points:
    """Return points of an ellipse between two angles in degrees; 0 is right, 90 is down."""
    angles = np.radians(np.linspace(start, stop, 25))
    return np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], axis=1)


def mirrored(half: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of a symmetric shape from those of its right half, listed from top to bottom."""
    return [*half, *((-x, y) for x, y in reversed(half) if x)]


def smooth(corners: Corners, closed: bool = True) -> Points:
    """Round off a polygon, or an open line between its ends, by cutting the corners three times (Chaikin's rule)."""
    points = np.asarray(corners, dtype=np.float64)
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        pairs = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1)
        cut = pairs.reshape(-1, 2)
        points = cut if closed else np.concatenate([points[:1], cut[:-2], points[-1:]])
    return points


class Canvas:
    """A BGRA picture with premultiplied alpha of the rectangle from (left, top) to (right, bottom) of a plane.

    A unit of the plane is ``scale`` pixels of the finished picture; a small one is drawn twice as large.
    """

    def __init__(self, left: float, top: float, right: float, bottom: float, scale: float) -> None:
        self.detail = 2 if scale < 40 else 1
        self.corner, self.scale = np.array([left, top]), scale * self.detail
        self.pixels = np.zeros((round((bottom - top) * self.scale), round((right - left) * self.scale), 4), np.uint8)

    def fixed_point(self, points: Corners) -> NDArray[np.int32]:
        """Turn unit coordinates into OpenCV's fixed-point pixel coordinates."""
        moved = (np.asarray(points, dtype=np.float64) - self.corner) * self.scale
        return np.round(moved * (1 << SUBPIXEL_BITS)).astype(np.int32)

    def fill(self, points: Corners, colour: Colour) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.pixels, [self.fixed_point(points)], (*colour, 255.0), cv2.LINE_AA, SUBPIXEL_BITS)

    def stroke(self, points: Corners, width: float, colour: Colour) -> None:
        """Draw a line of ``width`` units, at least one pixel, with round ends."""
        thickness = max(1, round(width * self.scale))
        line, ink = [self.fixed_point(points)], (*colour, 255.0)
        cv2.polylines(self.pixels, line, False, ink, thickness, cv2.LINE_AA, SUBPIXEL_BITS)

    def tint(self, points: Corners, paint: Colour | Picture, opacity: float = 1.0, blur: float = 0.0) -> None:
        """Colour what is already drawn below a polygon whose edge is soft over ``blur`` units.

        ``paint`` is a colour, or a BGR texture that is repeated. What is transparent stays transparent.
        """
        fixed, margin = self.fixed_point(points), 2 + round(2 * blur * self.scale)
        x0, y0 = np.maximum((fixed.min(axis=0) >> SUBPIXEL_BITS) - margin, 0).tolist()
        x1, y1 = ((fixed.max(axis=0) >> SUBPIXEL_BITS) + margin + 1).tolist()
        below = self.pixels[y0 : max(y1, 0), x0 : max(x1, 0)]
        if not below.size:
            return
        rows, columns = below.shape[:2]
        coverage = np.zeros((rows, columns), np.uint8)
        shifted = fixed - (np.array([x0, y0], np.int32) << SUBPIXEL_BITS)
        cv2.fillPoly(coverage, [shifted], 255.0, cv2.LINE_AA, SUBPIXEL_BITS)
        if blur * self.scale > 0.4:
            side = 2 * round(1.7 * blur * self.scale) + 1  # a short kernel: nobody sees the difference
            coverage = cv2.GaussianBlur(coverage, (side, side), blur * self.scale).astype(np.uint8)
        if paint.ndim == 3:
            paint = paint[np.arange(rows)[:, None] % paint.shape[0], np.arange(columns) % paint.shape[1]]
        change = paint.astype(np.float32) * (below[..., 3:] / np.float32(255)) - below[..., :3]
        below[..., :3] = below[..., :3] + change * (coverage * np.float32(opacity / 255))[..., None]

    def finish(self) -> Picture:
        """Return the finished picture."""
        rows, columns = (max(1, round(side / self.detail)) for side in self.pixels.shape[:2])
        return cv2.resize(self.pixels, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.uint8)


def put_over(scene: Picture, picture: Picture, left: int, top: int) -> None:
    """Put a BGRA picture over a BGR scene, in place; parts outside are cut off."""
    x0, y0 = max(left, 0), max(top, 0)
    below = scene[y0 : max(top + picture.shape[0], 0), x0 : max(left + picture.shape[1], 0)]
    part = picture[y0 - top :, x0 - left :][: below.shape[0], : below.shape[1]]
    clear = (255 - part[..., 3:]).astype(np.uint16)
    below[:] = np.minimum(part[..., :3] + (below * clear + 127) // 255, 255)
