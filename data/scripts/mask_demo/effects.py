"""What light and camera do to a whole picture: exposure, colour cast, shadows, blur, noise."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from data.scripts.mask_demo.patterns import cloud_noise


def light_scene(rng: np.random.Generator, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Change exposure, colour of the light, and where it falls."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width - 0.5, y / height - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.5) * (x * np.cos(angle) + y * np.sin(angle)) - rng.uniform(0, 0.7) * (x * x + y * y)
    if rng.random() < 0.25:
        light *= 1 - rng.uniform(0.2, 0.5) * np.clip(
            cloud_noise(rng, height, width, 3) * 4 - rng.uniform(1.2, 2.4), 0, 1
        )
    cast = rng.uniform(0.86, 1.14, 3)
    exposure = rng.uniform(0.5, 0.8) if rng.random() < 0.08 else rng.uniform(0.9, 1.25)
    lit = picture * (light[..., None] * cast * exposure)
    return (255 * (np.clip(lit, 0, 255) / 255) ** rng.uniform(0.85, 1.2)).astype(np.float32)


def blur_scene(rng: np.random.Generator, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put some pictures out of focus and shake the camera for others."""
    chance = rng.random()
    if chance < 0.4:
        return cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.3))).astype(np.float32)
    if chance < 0.5:
        length = int(rng.integers(3, 8))
        kernel = np.zeros((length, length), np.float32)
        end = (length - 1, int(rng.integers(length)))
        cv2.line(kernel, (0, length - 1 - end[1]), end, 1.0)
        return cv2.filter2D(picture, -1, kernel / kernel.sum()).astype(np.float32)
    return picture


def take_picture(rng: np.random.Generator, scene: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the scene as a camera would record it; same size, BGR."""
    picture = blur_scene(rng, light_scene(rng, scene.astype(np.float32)))
    if rng.random() < 0.04:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture + noise * rng.uniform(1, 9), 0, 255).astype(np.uint8)
