"""Textures: fabrics for masks and clothes, and noise for everything else."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from data.scripts.mask_demo.canvas import Colour, any_colour, mix, shade

FABRICS = ("plain", "stripes", "checks", "dots", "camouflage", "flowers")


def cloud_noise(rng: np.random.Generator, height: int, width: int, coarsest: int = 4) -> NDArray[np.float32]:
    """Return smooth noise of several scales between 0 and 1; ``coarsest`` is the number of cells of the largest."""
    total = np.zeros((height, width), np.float32)
    cells, weight = coarsest, 1.0
    while cells <= min(height, width, 128):
        coarse = rng.random((cells, cells), dtype=np.float32)
        total += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 2, weight * 0.6
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def two_tone(share: NDArray[np.float32], first: Colour, second: Colour) -> NDArray[np.uint8]:
    """Blend two colours by a map of shares (0 to 1) into a BGR picture."""
    low, high = np.array(first, np.float32), np.array(second, np.float32)
    return np.clip(low + (high - low) * share[..., None], 0, 255).astype(np.uint8)


def fabric(rng: np.random.Generator, kind: str, colour: Colour, cell: float, size: int) -> NDArray[np.uint8]:
    """Return a square BGR texture of ``size`` pixels; ``cell`` is the pattern's period in pixels."""
    cell = max(2.0, cell)
    other = any_colour(rng) if rng.random() < 0.5 else mix(colour, (255.0, 255.0, 255.0), 0.6)
    rows, columns = (axis.astype(np.float32) for axis in np.mgrid[0:size, 0:size])
    if kind == "stripes":
        angle = rng.choice([0.0, np.pi / 2, np.pi / 4])
        wave = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * 2 * np.pi / cell)
        return two_tone(np.clip(wave * 3 + 0.5, 0, 1).astype(np.float32), colour, other)
    if kind == "checks":
        bands = (np.sin(rows * 2 * np.pi / cell) > 0).astype(np.float32) + (np.sin(columns * 2 * np.pi / cell) > 0)
        return two_tone((bands / 2).astype(np.float32), colour, other)
    if kind == "dots":
        offset = np.where(np.floor(rows / cell) % 2 > 0, cell / 2, 0)
        distance = np.hypot(rows % cell - cell / 2, (columns + offset) % cell - cell / 2)
        return two_tone(np.clip(cell * 0.3 - distance + 0.5, 0, 1).astype(np.float32), colour, other)
    if kind == "camouflage":
        noise = cloud_noise(rng, size, size, max(2, int(size / cell / 2)))
        blotches = (np.floor(noise * 4) / 3).astype(np.float32)
        return two_tone(blotches, shade(colour, 0.6), shade(colour, 1.25))
    if kind == "flowers":
        picture = np.full((size, size, 3), colour, np.float32).astype(np.uint8)
        for _ in range(int(np.clip((size / cell) ** 2, 4, 90))):
            centre = (int(rng.integers(size)), int(rng.integers(size)))
            cv2.circle(picture, centre, max(1, int(cell * rng.uniform(0.15, 0.35))), any_colour(rng), -1, cv2.LINE_AA)
        return picture
    grain = cloud_noise(rng, size, size, max(2, min(64, size // 4)))
    return two_tone(grain, shade(colour, 0.93), shade(colour, 1.05))
