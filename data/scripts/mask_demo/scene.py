"""Composes a whole picture: who stands where, what hides whom, and the labels that follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from data.scripts.mask_demo.backdrops import paint_backdrop
from data.scripts.mask_demo.canvas import put_over
from data.scripts.mask_demo.effects import take_picture
from data.scripts.mask_demo.look import random_look
from data.scripts.mask_demo.objects import paint_object
from data.scripts.mask_demo.person_painter import LEFT, TOP, Person, paint_person

FACE, FACE_MASK = 0, 1
LEAST_VISIBLE = 0.5  # share of a face's area that nobody else may cover
LEAST_IN_FRAME = 0.7  # share of a face's box that lies in the picture
ATTEMPTS = 6  # places tried for a person before the scene does without

Spot = tuple[float, float, float]  # x and y of the head's centre and half its width, in pixels of a 320-pixel picture


@dataclass(frozen=True)
class Label:
    """One face: class index, and its box in pixels: left, top, right, bottom."""

    kind: int
    box: tuple[float, float, float, float]


@dataclass
class Scene:
    """A picture that is being composed: pixels, and for each of them the face it belongs to (0 = none)."""

    pixels: NDArray[np.uint8]
    owner: NDArray[np.int32]
    labels: list[Label] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)  # pixels of each face before others stepped in front of it

    def add(self, person: Person, kind: int, left: int, top: int) -> bool:
        """Put a person into the scene unless that hides a face too much or leaves the frame; say whether it did."""
        height, width = self.owner.shape
        x0, y0, x1, y1 = (value + shift for value, shift in zip(person.box, (left, top, left, top), strict=True))
        inside = (min(x1, width) - max(x0, 0)) * (min(y1, height) - max(y0, 0))
        if min(x1, width) <= max(x0, 0) or inside < LEAST_IN_FRAME * (x1 - x0) * (y1 - y0):
            return False
        owner = self.owner.copy()
        solid = np.zeros((height, width, 3), np.uint8)
        put_over(solid, np.repeat(person.picture[..., 3:], 4, axis=2), left, top)
        owner[solid[..., 0] > 127] = 0
        outline = np.round(person.face + (left, top)).astype(np.int32)
        number = len(self.labels) + 1
        cv2.fillPoly(owner, [outline], number)
        counts = np.bincount(owner.ravel(), minlength=number + 1)[1:]
        if any(count < LEAST_VISIBLE * area for count, area in zip(counts, self.areas, strict=False)):
            return False
        put_over(self.pixels, person.picture, left, top)
        self.owner = owner
        self.areas.append(int(counts[-1]))
        self.labels.append(Label(kind, (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))))
        return True


def portrait(rng: np.random.Generator) -> list[Spot]:
    """One or two people close to the camera."""
    count = int(rng.integers(1, 3))
    reach = (34, 78) if count == 1 else (26, 48)
    return [
        (float(rng.uniform(60, 260)), float(rng.uniform(110, 190)), float(rng.uniform(*reach))) for _ in range(count)
    ]


def group(rng: np.random.Generator) -> list[Spot]:
    """Three to six people beside each other."""
    count, half_width = int(rng.integers(3, 7)), float(rng.uniform(13, 30))
    height = float(rng.uniform(max(80.0, 310 - 10 * half_width), 210))
    slots = np.linspace(30, 290, count)
    return [
        (float(x + rng.normal(0, 8)), height + float(rng.normal(0, 18)), half_width * float(rng.uniform(0.8, 1.2)))
        for x in slots
    ]


def crowd(rng: np.random.Generator) -> list[Spot]:
    """Rows of people, larger towards us."""
    spots: list[Spot] = []
    half_width, y = float(rng.uniform(6, 12)), float(rng.uniform(40, 140))
    for _ in range(int(rng.integers(2, 5))):
        step = half_width * float(rng.uniform(3.2, 6))
        for x in np.arange(rng.uniform(0, step), 320, step):
            if rng.random() < 0.75:
                spots.append((float(x + rng.normal(0, 3)), y + float(rng.normal(0, 4)), half_width))
        half_width, y = half_width * 1.35, y + half_width * 4
    return spots


def street_view(rng: np.random.Generator) -> list[Spot]:
    """A few people at very different distances, all standing on the same ground."""
    horizon = float(rng.uniform(70, 150))
    spots = []
    for _ in range(int(rng.integers(2, 8))):
        half_width = float(np.exp(rng.uniform(np.log(6), np.log(46))))
        spots.append((float(rng.uniform(15, 305)), horizon + half_width * float(rng.uniform(-0.4, 1.6)), half_width))
    return spots


def nobody(rng: np.random.Generator) -> list[Spot]:
    """No people at all."""
    return []


LAYOUTS: tuple[Callable[[np.random.Generator], list[Spot]], ...] = (portrait, group, crowd, street_view, nobody)
LAYOUT_SHARES = (0.27, 0.27, 0.16, 0.25, 0.05)


def add_objects(rng: np.random.Generator, scene: Scene, size: int, light: tuple[float, float]) -> None:
    """Put objects that are no faces behind the people."""
    for _ in range(int(rng.choice([0, 1, 2, 3, 4], p=[0.35, 0.25, 0.2, 0.12, 0.08]))):
        look = random_look(rng, True, *light)
        half_width = float(np.exp(rng.uniform(np.log(6), np.log(45)))) * size / 320
        x, y = rng.uniform(0, size, 2).tolist()
        picture = paint_object(look, half_width, size - y, rng)
        put_over(scene.pixels, picture, round(x + LEFT * half_width), round(y + TOP * half_width))


def draw_scene(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], list[Label]]:
    """Draw one picture of ``size`` x ``size`` pixels (BGR) and return it with its labels."""
    scene = Scene(paint_backdrop(rng, size), np.zeros((size, size), np.int32))
    light = (float(rng.uniform(-170, -10)), float(rng.uniform(0.02, 0.32)))
    add_objects(rng, scene, size, light)
    masked_share = float(rng.choice([0.15, 0.5, 0.85]))
    spots = LAYOUTS[int(rng.choice(len(LAYOUTS), p=LAYOUT_SHARES))](rng)
    for x, y, half_width in sorted(spots, key=lambda spot: spot[2]):
        masked = bool(rng.random() < masked_share)
        zoom = size / 320
        room_below = size - y * zoom
        person = paint_person(random_look(rng, masked, *light), half_width * zoom, room_below, rng)
        head_left, head_top = person.face.mean(axis=0)
        for attempt in range(ATTEMPTS):
            shift = 0.0 if attempt == 0 else float(rng.normal(0, 60))
            left, top = round((x + shift) * zoom - head_left), round(y * zoom - head_top)
            if scene.add(person, FACE_MASK if masked else FACE, left, top):
                break
    return take_picture(rng, scene.pixels), scene.labels
