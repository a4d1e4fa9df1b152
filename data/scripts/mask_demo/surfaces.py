"""Whole surfaces: colours (0 to 255), textures, backdrops, and what light and camera do to a picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float64]  # (3,) blue, green, red
Picture = NDArray[np.uint8]  # (H, W, 3) BGR, or (H, W, 4) BGRA with premultiplied alpha

WHITE: Colour = np.full(3, 245.0)
BLACK: Colour = np.full(3, 25.0)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours: ``share`` 0 gives the first, 1 the second."""
    return first + (second - first) * share


def shade(colour: Colour, factor: float) -> Colour:
    """Make a colour darker (factor below 1) or lighter (above 1)."""
    return np.minimum(colour * factor, 255.0)


def vary(rng: np.random.Generator, colour: Colour, spread: float = 12.0) -> Colour:
    """Return the colour with each channel moved by up to ``spread``."""
    return np.clip(colour + rng.uniform(-spread, spread, 3), 0, 255)


def any_colour(rng: np.random.Generator) -> Colour:
    """Return a random colour of any hue, not too dark."""
    hsv = rng.uniform((0, 25, 50), (180, 230, 250)).astype(np.uint8)
    return cv2.cvtColor(hsv[None, None], cv2.COLOR_HSV2BGR)[0, 0].astype(np.float64)


def cloud_noise(rng: np.random.Generator, size: int, coarsest: int) -> NDArray[np.float32]:
    """Return (size, size) smooth noise between 0 and 1; ``coarsest`` is the number of cells of its largest scale."""
    total = np.zeros((size, size), np.float32)
    cells, weight = coarsest, 1.0
    while cells <= min(size, 128):
        coarse = rng.random((cells, cells), dtype=np.float32)
        total += weight * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight * 0.6
    return (total - total.min()) / max(float(np.ptp(total)), 1e-6)


def two_tone(share: NDArray[np.floating], first: Colour, second: Colour) -> Picture:
    """Blend two colours by a map of shares (0 to 1, clipped) into a BGR picture."""
    change = (second - first).astype(np.float32)
    return (first.astype(np.float32) + change * np.clip(share, 0, 1)[..., None]).astype(np.uint8)


def fabric(rng: np.random.Generator, colour: Colour, cell: float, size: int = 128) -> Picture:
    """Return a square BGR texture of ``size`` pixels: stripes, checks, dots or blotches, ``cell`` pixels apart."""
    other = any_colour(rng) if rng.random() < 0.5 else mix(colour, WHITE, 0.6)
    pattern, slope = int(rng.integers(4)), float(rng.choice([0.0, 1.0, 100.0]))
    if pattern == 3:
        noise = cloud_noise(rng, size, max(2, int(size / cell / 2)))
        return two_tone(np.floor(noise * 4) / 3, colour, other)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * np.float32(2 * np.pi / max(2.0, cell))
    stripes = np.sin((x + slope * y) / np.float32(np.hypot(1, slope)))
    checks = np.sign(np.sin(x)) + np.sign(np.sin(y))
    return two_tone((0.5 + 3 * stripes, 0.5 + checks / 4, 3 * np.sin(x) * np.sin(y) - 1)[pattern], colour, other)


def paint_surface(rng: np.random.Generator, size: int) -> Picture:
    """Return a printed pattern, or plaster or clouds, half of them with bricks, windows, leaves or lights on them."""
    colour = mix(any_colour(rng), WHITE / 2, 0.3)
    if rng.random() < 0.2:
        return fabric(rng, colour, float(rng.uniform(8, 48)), size)
    clouds = cloud_noise(rng, size, int(rng.choice([3, 5, 16])))
    picture = two_tone(clouds, shade(colour, 0.6), mix(colour, any_colour(rng), 0.5))
    detail, spread = rng.random(), float(rng.uniform(5, 90))
    if detail < 0.35:
        height, width = rng.uniform((10, 8), (60, 60)).tolist()
        for top in np.arange(0, size, height):
            for left in np.arange(-width * rng.random(), size, width):
                right, bottom = left + width * float(rng.uniform(0.6, 0.95)), top + 0.9 * height
                block = (int(left), int(top)), (int(right), int(bottom))
                cv2.rectangle(picture, *block, vary(rng, colour, spread).tolist(), -1)
    elif detail < 0.7:
        for x, y in rng.integers(size, size=(int(rng.integers(15, 250)), 2)).tolist():
            axes = (int(rng.integers(2, 16)), int(rng.integers(2, 16)))
            cv2.ellipse(picture, (x, y), axes, 0, 0, 360, vary(rng, colour, spread).tolist(), -1, cv2.LINE_AA)
    return picture


def paint_backdrop(rng: np.random.Generator, size: int) -> Picture:
    """Return a background of ``size`` x ``size`` pixels: a wall or view, mostly a ground, more or less out of focus."""
    picture, horizon = paint_surface(rng, size), int(size * rng.uniform(0.25, 1.2))
    picture[horizon:] = paint_surface(rng, size)[horizon:]
    if rng.random() < 0.7:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.6, 3.5))).astype(np.uint8)
    return picture


def take_picture(rng: np.random.Generator, scene: Picture) -> Picture:
    """Return the scene as a camera would record it: exposure, colour cast, shadows, blur, noise; same size, BGR."""
    size, angle = len(scene), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / np.float32(size) - np.float32(0.5)
    light = 1 + rng.uniform(0, 0.5) * (x * np.cos(angle) + y * np.sin(angle)) - rng.uniform(0, 0.7) * (x * x + y * y)
    if rng.random() < 0.25:
        light *= 1 - rng.uniform(0.2, 0.5) * np.clip(cloud_noise(rng, size, 3) * 4 - rng.uniform(1.2, 2.4), 0, 1)
    exposure = rng.uniform(0.5, 0.8) if rng.random() < 0.08 else rng.uniform(0.9, 1.25)
    cast = (rng.uniform(0.86, 1.14, 3) * exposure / 255).astype(np.float32)
    lit = np.clip(scene * light[..., None].astype(np.float32) * cast, 0, 1)
    picture = 255 * lit ** np.float32(rng.uniform(0.85, 1.2))
    blur = rng.random()
    if blur < 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.3)))
    elif blur < 0.5:  # the camera was shaken
        length = int(rng.integers(3, 8))
        trace = np.zeros((length, length), np.float32)
        cv2.line(trace, (0, int(rng.integers(length))), (length - 1, int(rng.integers(length))), 1.0)
        picture = cv2.filter2D(picture, -1, trace / trace.sum())
    if rng.random() < 0.04:
        picture[:] = picture.mean(axis=2, keepdims=True)
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(1, 9))
    return np.clip(picture + noise, 0, 255).astype(np.uint8)
