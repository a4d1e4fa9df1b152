"""A transparent canvas in free units, on which people are drawn before they are put into a scene.

Colours are BGR triples of 0 to 255. Pixels are BGRA with premultiplied alpha, so that drawing with antialiased edges,
shrinking, and putting one picture over another need no division.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
Points = NDArray[np.float64]  # (N, 2), x to the right, y down

SUBPIXEL_BITS = 4
WHITE: Colour = (245.0, 245.0, 245.0)
BLACK: Colour = (25.0, 25.0, 25.0)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours: ``share`` 0 gives the first, 1 the second."""
    blue, green, red = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return (blue, green, red)


def shade(colour: Colour, factor: float) -> Colour:
    """Make a colour darker (factor below 1) or lighter (above 1)."""
    blue, green, red = (float(min(255.0, channel * factor)) for channel in colour)
    return (blue, green, red)


def vary(rng: np.random.Generator, colour: Colour, spread: float = 12.0) -> Colour:
    """Return the colour with each channel moved by up to ``spread``."""
    blue, green, red = np.clip(np.array(colour) + rng.uniform(-spread, spread, 3), 0, 255).tolist()
    return (blue, green, red)


def any_colour(rng: np.random.Generator, saturation: tuple[float, float] = (0.1, 0.9)) -> Colour:
    """Return a random colour: any hue, the given range of saturation, not too dark."""
    hsv = np.array([[[rng.uniform(0, 180), 255 * rng.uniform(*saturation), rng.uniform(50, 250)]]]).astype(np.uint8)
    blue, green, red = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return (float(blue), float(green), float(red))


def arc(centre: tuple[float, float], radii: tuple[float, float], start: float = 0.0, stop: float = 360.0) -> Points:
    """Return points of an ellipse between two angles in degrees; 0 is right, 90 is down."""
    angles = np.radians(np.linspace(start, stop, 25))
    return np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], axis=1)


@lru_cache(maxsize=64)
def corner_cutter(count: int, closed: bool) -> NDArray[np.float64]:
    """Return the matrix that cuts the corners of a line of ``count`` points three times (Chaikin's rule)."""
    points = np.eye(count)
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        pairs = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1)
        cut = pairs.reshape(-1, count)
        points = cut if closed else np.concatenate([points[:1], cut[:-2], points[-1:]])
    return points


def smooth(corners: Sequence[tuple[float, float]] | Points, closed: bool = True) -> Points:
    """Round off the corners of a polygon, or of an open line."""
    points: Points = corner_cutter(len(corners), closed) @ np.asarray(corners, dtype=np.float64)
    return points


class Canvas:
    """A BGRA picture that covers a rectangle of the unit plane at ``scale`` pixels for each unit."""

    def __init__(self, left: float, top: float, width: float, height: float, scale: float) -> None:
        self.left, self.top, self.scale = left, top, scale
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        self.bottom = top + height
        self.pixels = np.zeros((rows, columns, 4), np.uint8)

    def place(self, points: Points) -> NDArray[np.int32]:
        """Turn unit coordinates into OpenCV's fixed-point pixel coordinates."""
        moved = (np.asarray(points, dtype=np.float64) - (self.left, self.top)) * self.scale
        return np.round(moved * (1 << SUBPIXEL_BITS)).astype(np.int32)

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.pixels, [self.place(points)], (*colour, 255.0), cv2.LINE_AA, SUBPIXEL_BITS)

    def stroke(self, points: Points, width: float, colour: Colour, closed: bool = False) -> None:
        """Draw a line of ``width`` units, at least one pixel, with round ends."""
        thickness = max(1, round(width * self.scale))
        where = [self.place(points)]
        cv2.polylines(self.pixels, where, closed, (*colour, 255.0), thickness, cv2.LINE_AA, SUBPIXEL_BITS)

    def region(self, points: Points, blur: float = 0.0) -> tuple[tuple[slice, slice], NDArray[np.float32]] | None:
        """Return the window that a polygon covers and its coverage there (0 to 1), soft over ``blur`` units.

        None if it lies outside the canvas.
        """
        corners = (np.asarray(points) - (self.left, self.top)) * self.scale
        margin = 2 + 2 * blur * self.scale
        x0, y0 = np.maximum(np.floor(corners.min(axis=0) - margin), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(corners.max(axis=0) + margin), self.pixels.shape[1::-1]).astype(int)
        if x1 - x0 < 1 or y1 - y0 < 1:
            return None
        coverage = np.zeros((y1 - y0, x1 - x0), np.uint8)
        local = np.round((corners - (x0, y0)) * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(coverage, [local], 255.0, cv2.LINE_AA, SUBPIXEL_BITS)
        if blur * self.scale > 0.4:
            window_side = 2 * round(1.7 * blur * self.scale) + 1  # a short kernel: nobody sees the difference
            coverage = cv2.GaussianBlur(coverage, (window_side, window_side), blur * self.scale)
        return (slice(y0, y1), slice(x0, x1)), coverage.astype(np.float32) / np.float32(255)

    def tint(self, points: Points, colour: Colour, opacity: float, blur: float = 0.0) -> None:
        """Colour what is already drawn below a polygon; transparent parts stay transparent."""
        found = self.region(points, blur)
        if found is None:
            return
        window, coverage = found
        below = self.pixels[window].astype(np.float32)
        paint = np.array(colour, np.float32) * (below[..., 3:] / 255)
        below[..., :3] += (paint - below[..., :3]) * (coverage * opacity)[..., None]
        self.pixels[window] = below.astype(np.uint8)

    def cover(self, points: Points, texture: NDArray[np.uint8]) -> None:
        """Fill a polygon with a texture, a BGR picture that is laid out from the polygon's window and repeated."""
        found = self.region(points)
        if found is None:
            return
        window, coverage = found
        rows, columns = coverage.shape
        repeats = (-(-rows // texture.shape[0]), -(-columns // texture.shape[1]), 1)
        paint = np.full((rows, columns, 4), 255, np.float32)
        paint[..., :3] = np.tile(texture, repeats)[:rows, :columns]
        below = self.pixels[window].astype(np.float32)
        self.pixels[window] = (below + (paint - below) * coverage[..., None]).astype(np.uint8)

    def light(self, factor: NDArray[np.float32], window: tuple[slice, slice]) -> None:
        """Multiply the colours in a window by a factor for each pixel."""
        lit = self.pixels[window][..., :3] * factor[..., None]
        alpha = self.pixels[window][..., 3:]
        self.pixels[window][..., :3] = np.minimum(lit, alpha).astype(np.uint8)

    def shrink(self, factor: float) -> NDArray[np.uint8]:
        """Return the picture reduced by ``factor`` (1 or more)."""
        rows, columns = self.pixels.shape[:2]
        size = (max(1, round(columns / factor)), max(1, round(rows / factor)))
        return cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def put_over(scene: NDArray[np.uint8], picture: NDArray[np.uint8], left: int, top: int) -> None:
    """Put a BGRA picture over a BGR scene, in place; parts outside are cut off."""
    x0, y0 = max(left, 0), max(top, 0)
    x1 = min(left + picture.shape[1], scene.shape[1])
    y1 = min(top + picture.shape[0], scene.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    part = picture[y0 - top : y1 - top, x0 - left : x1 - left]
    below = scene[y0:y1, x0:x1]
    clear = (255 - part[..., 3:]).astype(np.uint16)
    scene[y0:y1, x0:x1] = np.minimum(part[..., :3] + (below * clear + 127) // 255, 255).astype(np.uint8)
