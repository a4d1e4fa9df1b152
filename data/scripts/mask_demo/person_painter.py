"""Puts a whole person together, from back to front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.scripts.mask_demo.canvas import BLACK, WHITE, Canvas, Points, arc, shade, smooth
from data.scripts.mask_demo.face_painter import (
    ear_is_behind,
    light_head,
    paint_beard,
    paint_ear,
    paint_eye,
    paint_glasses,
    paint_mouth,
    paint_nose,
    paint_skin,
    paint_wrinkles,
)
from data.scripts.mask_demo.hair_painter import paint_back_hair, paint_hair, paint_headwear
from data.scripts.mask_demo.look import Look
from data.scripts.mask_demo.mask_painter import paint_mask
from data.scripts.mask_demo.patterns import FABRICS, fabric
from data.scripts.mask_demo.prop_painter import PAINTERS

LEFT, TOP, WIDTH, FEET = -2.7, -2.5, 5.4, 10.5  # the canvas of a person, in units of half a head's width


@dataclass(frozen=True)
class Person:
    """A drawn person. All coordinates are pixels of the picture, from its upper left corner."""

    picture: NDArray[np.uint8]  # BGRA, premultiplied alpha
    face: Points  # outline of the head
    box: tuple[float, float, float, float]  # left, top, right, bottom of the face


def paint_body(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint legs, arms, trunk and neck, as far down as the canvas reaches."""
    cloth = look.clothes
    wide = float(rng.uniform(1.7, 2.15))
    if canvas.bottom > 5:
        trousers = shade(look.hat_colour, 0.5)
        for side in (-1, 1):
            canvas.stroke(np.array([[side * 0.6, 5.0], [side * 0.7, 9.6]]), 1.05, trousers)
            canvas.fill(arc((side * 0.85, 9.9), (0.6, 0.3)), BLACK)
    for side in (-1, 1):
        elbow, hand = (side * (wide + 0.25), 3.6), (side * (wide - 0.1), 5.1)
        canvas.stroke(smooth([(side * (wide - 0.3), 2.2), elbow, hand], False), 0.68, shade(cloth, 0.82))
        canvas.fill(arc((hand[0], hand[1] + 0.25), (0.32, 0.36)), look.skin)
    trunk = smooth([(-0.75, 1.45), (0.75, 1.45), (wide, 2.1), (wide - 0.3, 5.6), (-wide + 0.3, 5.6), (-wide, 2.1)])
    if rng.random() < 0.35:
        kind = str(rng.choice(FABRICS))
        canvas.cover(trunk, fabric(rng, kind, cloth, canvas.scale * float(rng.uniform(0.25, 0.9)), 192))
    else:
        canvas.fill(trunk, cloth)
    canvas.tint(np.array([[0.5, 1.4], [wide, 2.0], [wide, 5.6], [0.9, 5.6]]), BLACK, 0.2, 0.3)
    neck = shade(look.skin, 0.78)
    canvas.fill(smooth([(-0.52, 0.7), (0.52, 0.7), (0.58, 1.6), (0, 2.0), (-0.58, 1.6)]), neck)
    canvas.tint(arc((0, 1.15), (0.6, 0.3)), shade(look.skin, 0.45), 0.5, 0.15)
    if rng.random() < 0.3:
        for side in (-1, 1):
            canvas.fill(np.array([[side * 0.5, 1.45], [0.0, 2.1], [side * 0.55, 2.3], [side * 0.8, 1.6]]), WHITE)


def person_canvas(scale: float, room_below: float) -> Canvas:
    """Return a canvas for a person of which ``room_below`` units below the head's centre can be seen."""
    bottom = float(np.clip(room_below + 0.3, 2.5, FEET))
    return Canvas(LEFT, TOP, WIDTH, bottom - TOP, scale)


def paint_person(look: Look, half_width: float, room_below: float, rng: np.random.Generator) -> Person:
    """Draw a person whose head is ``2 * half_width`` pixels wide.

    ``room_below`` is the number of pixels from the head's centre to the lower edge of the scene; what would lie
    further down is not drawn.
    """
    detail = 2.0 if half_width < 40 else 1.0
    canvas = person_canvas(half_width * detail, room_below / half_width)
    paint_back_hair(canvas, look, rng)
    paint_body(canvas, look, rng)
    for side in (-1, 1):
        if ear_is_behind(look, side):
            paint_ear(canvas, look, side)
    paint_skin(canvas, look)
    paint_wrinkles(canvas, look)
    paint_eye(canvas, look, -1)
    paint_eye(canvas, look, 1)
    paint_nose(canvas, look)
    paint_beard(canvas, look, rng)
    if look.beard != "full" or look.mask == "none":
        paint_mouth(canvas, look)
    if look.hat != "headscarf":
        paint_hair(canvas, look, rng)
    for side in (-1, 1):
        if not ear_is_behind(look, side):
            paint_ear(canvas, look, side)
    if look.mask != "none":
        paint_mask(canvas, look, rng)
    paint_glasses(canvas, look, rng)
    paint_headwear(canvas, look)
    light_head(canvas, look)
    if look.prop in PAINTERS:
        PAINTERS[look.prop](canvas, look, rng)
    corner = np.array([LEFT, TOP])
    left, top, right, lower = look.head.box()
    box = ((left - LEFT), (top - TOP), (right - LEFT), (lower - TOP))
    return Person(
        picture=canvas.shrink(detail),
        face=(look.head.outline() - corner) * half_width,
        box=(box[0] * half_width, box[1] * half_width, box[2] * half_width, box[3] * half_width),
    )
