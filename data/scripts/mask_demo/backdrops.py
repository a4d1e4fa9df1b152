"""Paints the backgrounds: walls, rooms, streets, foliage, shelves, lights out of focus. All sizes are in pixels."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from data.scripts.mask_demo.canvas import WHITE, Colour, any_colour, mix, shade, vary
from data.scripts.mask_demo.patterns import FABRICS, cloud_noise, fabric, two_tone

Picture = NDArray[np.uint8]


def box(picture: Picture, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    """Fill an upright rectangle."""
    cv2.rectangle(picture, (round(left), round(top)), (round(right), round(bottom)), colour, -1)


def plaster(rng: np.random.Generator, size: int) -> Picture:
    """A wall with soft stains and a gradient."""
    colour = any_colour(rng, (0.05, 0.5))
    stains = cloud_noise(rng, size, size, 3)
    slope = np.linspace(0, 1, size, dtype=np.float32)[None, :] * np.float32(rng.uniform(-0.5, 0.5))
    return two_tone(
        np.clip(stains * 0.5 + slope + 0.25, 0, 1).astype(np.float32), shade(colour, 0.65), shade(colour, 1.2)
    )


def bricks(rng: np.random.Generator, size: int) -> Picture:
    """A wall of bricks or tiles."""
    joint = vary(rng, (170, 175, 180), 30)
    stone = vary(rng, (70, 90, 160), 40) if rng.random() < 0.5 else any_colour(rng, (0.05, 0.4))
    picture = np.full((size, size, 3), joint, np.float32).astype(np.uint8)
    height = float(rng.uniform(10, 32))
    width, gap = height * float(rng.uniform(1, 2.6)), max(1.0, height * 0.1)
    for row in range(int(size / height) + 1):
        for column in range(-1, int(size / width) + 1):
            left = (column + 0.5 * (row % 2)) * width
            colour = vary(rng, shade(stone, float(rng.uniform(0.85, 1.15))), 6)
            box(picture, left, row * height, left + width - gap, (row + 1) * height - gap, colour)
    return picture


def wallpaper(rng: np.random.Generator, size: int) -> Picture:
    """A wall with a printed pattern."""
    colour = any_colour(rng, (0.1, 0.6))
    return fabric(rng, str(rng.choice(FABRICS)), colour, float(rng.uniform(8, 48)), size)


def foliage(rng: np.random.Generator, size: int) -> Picture:
    """Leaves, or a meadow with sky."""
    low, high = vary(rng, (30, 60, 30), 25), vary(rng, (70, 170, 110), 40)
    picture = two_tone(cloud_noise(rng, size, size, 5), low, high)
    for _ in range(int(rng.integers(80, 350))):
        x, y = rng.integers(size, size=2).tolist()
        axes = (int(rng.integers(2, 14)), int(rng.integers(2, 7)))
        colour = mix(low, high, float(rng.uniform(0, 1.2)))
        cv2.ellipse(picture, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    if rng.random() < 0.5:
        horizon = int(size * rng.uniform(0.2, 0.5))
        picture[:horizon] = sky(rng, size)[:horizon]
    return picture


def sky(rng: np.random.Generator, size: int) -> Picture:
    """A sky with clouds."""
    clouds = np.clip(cloud_noise(rng, size, size, 3) * 2 - 0.8, 0, 1)
    return two_tone(clouds.astype(np.float32), vary(rng, (215, 165, 110), 35), vary(rng, (235, 235, 235), 15))


def beach(rng: np.random.Generator, size: int) -> Picture:
    """Sand, the sea, and the sky."""
    picture = sky(rng, size)
    shore = int(size * rng.uniform(0.25, 0.5))
    sea = two_tone(cloud_noise(rng, size, size, 16), vary(rng, (170, 120, 40), 30), vary(rng, (200, 170, 90), 30))
    sand = two_tone(cloud_noise(rng, size, size, 8), vary(rng, (120, 170, 205), 25), vary(rng, (160, 205, 235), 15))
    picture[shore:] = sea[shore:]
    dunes = shore + size * 0.08 + 8 * np.sin(np.arange(size) / size * rng.uniform(3, 12))
    on_land = np.arange(size)[:, None] > dunes[None, :]
    return np.where(on_land[..., None], sand, picture)


def street(rng: np.random.Generator, size: int) -> Picture:
    """Houses with windows, a pavement, and sky above."""
    picture = sky(rng, size)
    ground = int(size * rng.uniform(0.5, 0.75))
    left = -20.0
    while left < size:
        width, top = float(rng.uniform(50, 140)), float(rng.uniform(-0.3, 0.3)) * size
        wall = any_colour(rng, (0.05, 0.45))
        box(picture, left, top, left + width, ground, wall)
        step, pane = float(rng.uniform(18, 34)), mix(shade(wall, 0.4), (160, 120, 80), 0.4)
        for y in np.arange(top + 8, ground - step, step):
            for x in np.arange(left + 6, left + width - step * 0.7, step):
                box(picture, x, y, x + step * 0.5, y + step * 0.65, vary(rng, pane, 20))
        left += width
    paving = two_tone(cloud_noise(rng, size, size, 12), vary(rng, (95, 95, 95), 25), vary(rng, (150, 150, 150), 25))
    picture[ground:] = paving[ground:]
    for x in np.linspace(-size, 2 * size, 14):
        cv2.line(picture, (int(size / 2 + (x - size / 2) * 0.4), ground), (int(x), size), (80, 80, 80), 1, cv2.LINE_AA)
    return picture


def room(rng: np.random.Generator, size: int) -> Picture:
    """A room: wall, floor, a window or pictures, a door, furniture."""
    picture = plaster(rng, size)
    floor = int(size * rng.uniform(0.6, 0.85))
    plank = vary(rng, (70, 110, 150), 40)
    for left in range(0, size, 22):
        box(picture, left, floor, left + 21, size, vary(rng, plank, 10))
    box(picture, 0, floor - 5, size, floor, shade(plank, 0.7))
    for _ in range(int(rng.integers(1, 5))):
        x, y = float(rng.uniform(0, size * 0.8)), float(rng.uniform(0, floor * 0.6))
        w, h = (float(v) for v in rng.uniform(25, 100, 2))
        box(picture, x - 4, y - 4, x + w + 4, y + h + 4, any_colour(rng, (0.1, 0.6)))
        box(picture, x, y, x + w, y + h, mix(any_colour(rng), WHITE, float(rng.uniform(0.2, 0.8))))
        if rng.random() < 0.5:
            box(picture, x + w / 2 - 2, y, x + w / 2 + 2, y + h, WHITE)
    if rng.random() < 0.5:
        x, w = float(rng.uniform(0, size * 0.7)), float(rng.uniform(40, 120))
        box(picture, x, floor - rng.uniform(30, 120), x + w, floor + 15, any_colour(rng, (0.2, 0.7)))
    return picture


def shelves(rng: np.random.Generator, size: int) -> Picture:
    """Shelves full of books, boxes and jars."""
    wood = vary(rng, (60, 90, 130), 40)
    picture = np.full((size, size, 3), shade(wood, 0.5), np.float32).astype(np.uint8)
    height = float(rng.uniform(40, 80))
    for bottom in np.arange(height, size + height, height):
        x = 0.0
        while x < size:
            width, tall = float(rng.uniform(5, 26)), height * float(rng.uniform(0.45, 0.85))
            colour = any_colour(rng)
            box(picture, x, bottom - tall, x + width - 1, bottom, colour)
            if width > 14:
                centre = (round(x + width / 2), round(bottom - tall / 2))
                cv2.circle(picture, centre, round(width * 0.3), vary(rng, WHITE, 40), -1, cv2.LINE_AA)
            x += width
        box(picture, 0, bottom, size, bottom + 5, wood)
    return picture


def lights(rng: np.random.Generator, size: int) -> Picture:
    """Lights out of focus in front of darkness."""
    dark = shade(any_colour(rng, (0.2, 0.7)), 0.3)
    picture = two_tone(cloud_noise(rng, size, size, 3), dark, shade(dark, 2.0))
    for _ in range(int(rng.integers(15, 60))):
        glow = np.zeros_like(picture)
        x, y = rng.integers(size, size=2).tolist()
        radius = int(rng.integers(4, 24))
        cv2.circle(glow, (x, y), radius, any_colour(rng, (0.1, 0.8)), -1, cv2.LINE_AA)
        cv2.addWeighted(picture, 1.0, glow, float(rng.uniform(0.2, 0.7)), 0, dst=picture)
    return picture


BACKDROPS: tuple[Callable[[np.random.Generator, int], Picture], ...] = (
    plaster,
    bricks,
    wallpaper,
    foliage,
    beach,
    street,
    street,
    room,
    room,
    shelves,
    lights,
)


def paint_backdrop(rng: np.random.Generator, size: int) -> Picture:
    """Return a random background of ``size`` x ``size`` pixels, more or less out of focus."""
    picture = BACKDROPS[int(rng.integers(len(BACKDROPS)))](rng, size)
    if rng.random() < 0.7:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.6, 3.5))).astype(np.uint8)
    return picture
