"""Paints what a hasty detector takes for a face: balls, balloons, teddy bears, backs of heads, masks without people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data.scripts.mask_demo.canvas import (
    BLACK,
    WHITE,
    Canvas,
    any_colour,
    arc,
    mix,
    shade,
    vary,
)
from data.scripts.mask_demo.face_painter import light_head
from data.scripts.mask_demo.hair_painter import paint_back_hair
from data.scripts.mask_demo.look import SKIN_TONES, Look
from data.scripts.mask_demo.mask_painter import outline_of, paint_fabric, paint_folds
from data.scripts.mask_demo.person_painter import paint_body, person_canvas


def paint_ball(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """A ball, a globe or an orange, often as coloured as skin."""
    skin = SKIN_TONES[int(rng.integers(len(SKIN_TONES)))]
    colour = vary(rng, skin, 20) if rng.random() < 0.6 else any_colour(rng)
    canvas.fill(arc((0, 0), (1, 1)), colour)
    for _ in range(int(rng.integers(0, 5))):
        height, bend = (float(v) for v in rng.uniform(-0.7, 0.7, 2))
        canvas.stroke(
            arc((0, height), (float(np.sqrt(1 - height**2)), abs(bend) * 0.3), 0, 180), 0.08, shade(colour, 0.6)
        )


def paint_balloon(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """A balloon, some with a band of another colour."""
    colour = any_colour(rng)
    canvas.stroke(np.array([[0, 1.2], [0.2, 4.5]]), 0.05, WHITE)
    canvas.fill(arc((0, 0), (1, 1.25)), colour)
    if rng.random() < 0.5:
        canvas.fill(arc((0, 0.1), (0.98, 1.1), 10, 170), mix(any_colour(rng), WHITE, 0.4))
    canvas.tint(arc((-0.4, -0.5), (0.2, 0.3)), WHITE, 0.7, 0.08)


def paint_bear(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """A teddy bear with a light muzzle."""
    fur = vary(rng, SKIN_TONES[int(rng.integers(2, len(SKIN_TONES)))], 20)
    canvas.fill(arc((0, 2.2), (1.2, 1.4)), shade(fur, 0.9))
    for side in (-1, 1):
        canvas.fill(arc((side * 0.8, -0.8), (0.4, 0.4)), fur)
        canvas.fill(arc((side * 0.8, -0.8), (0.22, 0.22)), shade(fur, 0.7))
    canvas.fill(arc((0, 0), (1.05, 1)), fur)
    for side in (-1, 1):
        canvas.fill(arc((side * 0.4, -0.15), (0.12, 0.13)), BLACK)
    canvas.fill(arc((0, 0.4), (0.45, 0.38)), mix(fur, WHITE, float(rng.uniform(0.3, 0.9))))
    canvas.fill(arc((0, 0.22), (0.16, 0.11)), BLACK)
    canvas.stroke(arc((0, 0.42), (0.16, 0.12), 0, 180), 0.06, BLACK)


def paint_back_of_head(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Somebody who looks away from us."""
    style = "short" if look.hair_style in ("bald", "buzz") else look.hair_style
    away = replace(look, hat="none", hair_style=style)
    paint_body(canvas, away, rng)
    canvas.fill(arc((0, 0.9), (0.55, 0.6)), shade(look.skin, 0.85))
    paint_back_hair(canvas, away, rng)
    canvas.fill(look.head.outline(lift=1.06), look.hair)
    for x in rng.uniform(-0.8, 0.8, 20):
        strand = np.array([[x * 0.3, -1.1], [x, -0.2], [x, 0.7]])
        canvas.stroke(strand, 0.03, shade(look.hair, float(rng.uniform(0.7, 1.4))))


def paint_loose_mask(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """A mask that lies or hangs somewhere with nobody behind it."""
    for side in (-1, 1):
        canvas.stroke(arc((side * 0.85, 0.4), (0.35, 0.3)), 0.05, shade(look.mask_colour, 0.85), True)
    paint_fabric(canvas, look, outline_of(look, look.mask), rng)
    paint_folds(canvas, look, rng)


def paint_plate(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """A plate, a clock or a round sign."""
    colour = mix(any_colour(rng), WHITE, float(rng.uniform(0, 0.9)))
    canvas.fill(arc((0, 0), (1, 1)), shade(colour, 0.8))
    canvas.fill(arc((0, 0), (0.8, 0.8)), colour)
    if rng.random() < 0.6:
        for angle in rng.uniform(0, 2 * np.pi, 2):
            canvas.stroke(np.array([[0.0, 0.0], [0.6 * np.cos(angle), 0.6 * np.sin(angle)]]), 0.08, BLACK)


OBJECTS: tuple[Callable[[Canvas, Look, np.random.Generator], None], ...] = (
    paint_ball,
    paint_balloon,
    paint_bear,
    paint_back_of_head,
    paint_back_of_head,
    paint_loose_mask,
    paint_plate,
)


def paint_object(look: Look, half_width: float, room_below: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the BGRA picture of a random object; ``look`` lends light, hair, clothes and the mask.

    Sizes in pixels, as for paint_person.
    """
    detail = 2.0 if half_width < 40 else 1.0
    canvas = person_canvas(half_width * detail, room_below / half_width)
    OBJECTS[int(rng.integers(len(OBJECTS)))](canvas, look, rng)
    light_head(canvas, look)
    return canvas.shrink(detail)
