"""Composes a whole picture: who stands where, what hides whom, and the labels that follow."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from data.scripts.mask_demo.canvas import Points, put_over
from data.scripts.mask_demo.look import random_look
from data.scripts.mask_demo.person_painter import LEFT, TOP, Person, paint_lookalike, paint_person
from data.scripts.mask_demo.surfaces import Picture, paint_backdrop, take_picture

FACE, FACE_MASK = 0, 1
LEAST_VISIBLE = 0.5  # share of a face's area that nobody else may cover
LEAST_IN_FRAME = 0.7  # share of a face's box that lies in the picture
ATTEMPTS = 6  # places tried for a person before the scene does without

Spot = tuple[float, float, float]  # x and y of the head's centre and half its width, in pixels of a 320-pixel picture
Label = tuple[int, Points]  # class index, and the face's box [[left, top], [right, bottom]] in pixels


@dataclass
class Scene:
    """A picture that is being composed: pixels, and for each of them the face it belongs to (0 = none)."""

    pixels: Picture
    owner: NDArray[np.int32]
    labels: list[Label] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)  # pixels of each face before others stepped in front of it

    def add(self, person: Person, label: int, left: int, top: int) -> bool:
        """Put a person into the scene unless that hides a face too much or leaves the frame; say whether it did."""
        whole = person.box + (left, top)
        box = np.clip(whole, 0, self.owner.shape[::-1])
        if np.prod(box[1] - box[0]) < LEAST_IN_FRAME * np.prod(whole[1] - whole[0]):
            return False
        owner = self.owner.copy()
        solid = np.zeros_like(self.pixels)
        put_over(solid, np.repeat(person.picture[..., 3:], 4, axis=2), left, top)
        owner[solid[..., 0] > 127] = 0
        number = len(self.labels) + 1
        cv2.fillPoly(owner, [np.round(person.face + (left, top)).astype(np.int32)], number)
        counts = np.bincount(owner.ravel(), minlength=number + 1)[1:].tolist()
        if any(count < LEAST_VISIBLE * area for count, area in zip(counts, self.areas, strict=False)):
            return False
        put_over(self.pixels, person.picture, left, top)
        self.owner = owner
        self.areas.append(counts[-1])
        self.labels.append((label, box))
        return True


def scattered(rng: np.random.Generator) -> list[Spot]:
    """Return up to nine people at very different distances, all standing on the same ground."""
    nearest, horizon = float(rng.choice([26, 48, 78])), float(rng.uniform(70, 150))
    half_widths = np.exp(rng.uniform(np.log(0.25 * nearest), np.log(nearest), int(rng.integers(0, 10)))).tolist()
    return [(float(rng.uniform(15, 305)), horizon + half * float(rng.uniform(-0.4, 1.6)), half) for half in half_widths]


def rows(rng: np.random.Generator) -> list[Spot]:
    """Return rows of people beside each other, larger towards us."""
    spots: list[Spot] = []
    half_width, y = rng.uniform((7, 40), (15, 140)).tolist()
    for _ in range(int(rng.integers(1, 5))):
        step = half_width * float(rng.uniform(2.8, 6))
        for x in np.arange(rng.uniform(0, step), 320, step):
            if rng.random() < 0.75:
                spots.append((float(rng.normal(x, 3)), float(rng.normal(y, 4)), half_width))
        half_width, y = half_width * 1.35, y + half_width * 4
    return spots


def draw_scene(rng: np.random.Generator, size: int) -> tuple[Picture, list[Label]]:
    """Draw one picture of ``size`` x ``size`` pixels (BGR) and return it with its labels."""
    scene, zoom = Scene(paint_backdrop(rng, size), np.zeros((size, size), np.int32)), size / 320
    light = (float(rng.uniform(-170, -10)), float(rng.uniform(0.02, 0.32)))
    for _ in range(int(rng.integers(0, 5))):
        half_width = float(np.exp(rng.uniform(np.log(6), np.log(45)))) * zoom
        x, y = rng.uniform(0, size, 2).tolist()
        picture = paint_lookalike(random_look(rng, True, light), half_width, size - y, rng)
        put_over(scene.pixels, picture, round(x + LEFT * half_width), round(y + TOP * half_width))
    masked_share = float(rng.choice([0.15, 0.5, 0.85]))
    spots = scattered(rng) if rng.random() < 0.7 else rows(rng)
    for x, y, half_width in sorted(spots, key=lambda spot: spot[2]):
        masked = bool(rng.random() < masked_share)
        person = paint_person(random_look(rng, masked, light), half_width * zoom, size - y * zoom, rng)
        head_left, head_top = person.face.mean(axis=0).tolist()
        for attempt in range(ATTEMPTS):
            shift = float(rng.normal(0, 60)) if attempt else 0.0
            left, top = round((x + shift) * zoom - head_left), round(y * zoom - head_top)
            if scene.add(person, FACE_MASK if masked else FACE, left, top):
                break
    return take_picture(rng, scene.pixels), scene.labels
