"""Paints a person from back to front, or something that looks like one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data.scripts.mask_demo.canvas import Canvas, Points, arc, mirrored, smooth
from data.scripts.mask_demo.look import Look
from data.scripts.mask_demo.surfaces import BLACK, WHITE, Picture, any_colour, fabric, mix, shade

LEFT, TOP, RIGHT, FEET = -2.7, -2.5, 2.7, 10.5  # the canvas of a person, in units of half a head's width
SIDES = (-1, 1)
LIPS = np.array([80.0, 70.0, 190.0])

# Right halves of outlines in face coordinates, from top to bottom
MASK_SHAPES = {
    "surgical": [(0.0, 0.0), (0.4, 0.06), (0.8, 0.14), (0.8, 0.62), (0.48, 0.96), (0.0, 1.08)],
    "cloth": [(0.0, -0.02), (0.45, 0.1), (0.86, 0.22), (0.82, 0.58), (0.4, 0.92), (0.0, 1.06)],
    "respirator": [(0.0, -0.03), (0.35, 0.14), (0.7, 0.3), (0.64, 0.66), (0.36, 0.94), (0.0, 1.04)],
    "bandana": [(0.0, 0.0), (0.5, 0.08), (0.97, 0.06), (0.9, 0.6), (0.55, 1.0), (0.0, 1.5)],
}
BEARD = [(0.0, 0.43), (0.4, 0.42), (0.8, 0.35), (0.97, 0.1), (0.82, 0.62), (0.4, 1.0), (0.0, 1.12)]


@dataclass(frozen=True)
class Person:
    """A drawn person. All coordinates are pixels of the picture, from its upper left corner."""

    picture: Picture  # BGRA, premultiplied alpha
    face: Points  # outline of the head
    box: Points  # [[left, top], [right, bottom]] of the face


def paint_body(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint what lies behind the head: long hair or the back of a headscarf; legs, arms, trunk and neck."""
    if look.hat == "headscarf":
        canvas.fill(look.head.outline(lift=1.22), shade(look.hat_colour, 0.7))
        canvas.fill(smooth(mirrored([(1.15, 0.2), (1.35, 1.7), (0.0, 2.1)])), shade(look.hat_colour, 0.7))
    elif look.hair_style == "long":
        canvas.fill(smooth(mirrored([(1.1, -0.4), (1.2, float(rng.uniform(1.0, 2.4)))])), shade(look.hair, 0.75))
    wide = float(rng.uniform(1.7, 2.15))
    for side in SIDES:
        canvas.stroke([(side * 0.6, 5.0), (side * 0.7, 9.6)], 1.05, shade(look.hat_colour, 0.5))
        sleeve = [(side * (wide - 0.3), 2.2), (side * (wide + 0.25), 3.6), (side * (wide - 0.1), 5.1)]
        canvas.stroke(smooth(sleeve, False), 0.68, shade(look.clothes, 0.82))
        canvas.fill(arc((side * (wide - 0.1), 5.35), (0.32, 0.36)), look.skin)
    trunk = smooth(mirrored([(0.75, 1.45), (wide, 2.1), (wide - 0.3, 5.6)]))
    canvas.fill(trunk, look.clothes)
    if rng.random() < 0.4:
        canvas.tint(trunk, fabric(rng, look.clothes, canvas.scale * float(rng.uniform(0.25, 0.9))))
    canvas.fill(smooth(mirrored([(0.52, 0.7), (0.58, 1.6), (0.0, 2.0)])), shade(look.skin, 0.78))


def paint_face(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint ears, skin, eyes, nose, mouth and beard."""
    head, skin = look.head, look.skin
    eyes_open, mouth_open = rng.uniform((0.01, -0.3), (0.085, 0.2)).tolist()
    canvas.stroke(head.project([(-1.0, 0.1), (1.0, 0.1)], 1.05), 0.45, shade(skin, 0.85))  # both ears
    canvas.fill(head.outline(), skin)
    for side in SIDES:
        eye, iris = (side * 0.37, -0.04), (0.08, min(0.08, eyes_open * 1.1))
        canvas.tint(head.project(arc(eye, (0.25, 0.16))), shade(skin, 0.62), 0.5, 0.08)
        canvas.fill(head.project(arc(eye, (0.17, eyes_open))), mix(WHITE, skin, 0.12))
        canvas.fill(head.project(arc(eye, iris)), BLACK)
        canvas.stroke(head.project(arc(eye, (0.18, eyes_open + 0.01), 180, 360)), 0.05, shade(skin, 0.35))
        brow = [(side * 0.17, -0.2), (side * 0.37, -0.28), (side * 0.59, -0.2)]
        canvas.stroke(head.curve(brow), 0.07, shade(look.hair, 0.8))
        canvas.fill(head.project(arc((side * 0.065, 0.335), (0.04, 0.022)), 1.08), shade(skin, 0.42))
    dark_side = -1 if np.cos(np.radians(look.light[0])) > 0 else 1
    nose = [(0.0, -0.05), (0.0, 0.26), (dark_side * 0.15, 0.32), (dark_side * 0.05, -0.05)]
    lift = np.array([[1.12], [1.12], [1.0], [1.0]])  # its ridge stands off the face, so turning moves it further
    canvas.tint(head.project(nose, lift), shade(skin, 0.65), 0.7, 0.03)
    canvas.tint(head.curve(mirrored(BEARD), True, 1.02), look.hair, float(rng.choice([0, 0, 0, 0.4, 0.95])), 0.05)
    low = 0.63 + max(0.0, mouth_open)
    lips = mirrored([(0.0, 0.54), (0.1, 0.52), (0.27, 0.56), (0.14, low)])
    canvas.fill(head.curve(lips, True), mix(shade(skin, 0.78), LIPS, 0.35))
    canvas.fill(head.curve(mirrored([(0.0, 0.57), (0.2, 0.57), (0.1, low - 0.04)]), True), shade(LIPS, 0.4))


def paint_hair(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint the hair in front: on top of the head and at the temples, down to a random hairline."""
    drop, parting = rng.uniform((0.0, -0.4), (0.35, 0.4)).tolist()
    front = [(-1.0, drop), (-0.9, -0.25), (-0.5, -0.52), (parting, -0.64), (0.5, -0.52), (0.9, -0.25), (1.0, drop)]
    edge = float(np.degrees(np.arcsin(drop)))
    crown = look.head.outline(edge, -180 - edge, float(rng.uniform(1.02, 1.15)))
    canvas.fill(np.concatenate([look.head.curve(front, lift=1.01), crown]), look.hair)
    for x in rng.uniform(-0.8, 0.8, 12):
        strand = [(x * 0.25, -1.0), (x * 0.8, -0.8), (x, -0.62 + 0.3 * x * x)]
        canvas.stroke(look.head.curve(strand, lift=1.04), 0.04, shade(look.hair, float(rng.uniform(0.65, 1.6))))


def paint_glasses(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint clear or dark glasses in front of the eyes."""
    frame = BLACK if rng.random() < 0.6 else any_colour(rng)
    height, tint = float(rng.uniform(0.13, 0.22)), float(rng.choice([0.0, 0.2, 0.95]))
    for side in SIDES:
        lens = look.head.project(arc((side * 0.37, 0.0), (0.26, height)), 1.06)
        canvas.tint(lens, BLACK, tint)
        canvas.stroke(lens, 0.045, frame)
        canvas.stroke(look.head.project([(side, -0.05), (side * 0.62, -0.05), (side * 0.1, -0.05)], 1.05), 0.04, frame)


def paint_hat(canvas: Canvas, look: Look) -> None:
    """Paint a cap with a peak, a beanie with a brim, or the ring of a headscarf around the face."""
    head, colour = look.head, look.hat_colour
    if look.hat == "headscarf":
        inner = head.project(arc((0, 0.03), (0.84, 0.84), 90, -270))
        canvas.fill(np.concatenate([head.outline(-270, 90, 1.2), inner]), colour)
        canvas.stroke(inner, 0.08, shade(colour, 0.65))
        canvas.fill(smooth([(-0.9, 0.7), (0, 1.25), (0.9, 0.7), (1.25, 1.7), (0.3, 2.2), (-1.2, 1.9)]), colour)
        return
    front = head.curve([(-1.0, -0.23), (-0.55, -0.46), (0.0, -0.52), (0.55, -0.46), (1.0, -0.23)], lift=1.06)
    canvas.fill(np.concatenate([front, head.outline(-14, -166, 1.18)]), colour)
    if look.hat == "cap":
        canvas.fill(head.curve(mirrored([(0.0, -0.66), (0.78, -0.42), (0.0, -0.33)]), True, 1.2), shade(colour, 0.65))
    else:
        canvas.stroke(front, 0.28, shade(colour, 0.8))


def paint_mask(canvas: Canvas, look: Look, rng: np.random.Generator, lowered: bool = False) -> None:
    """Paint a mask over mouth and nose, or, ``lowered``, one pulled below the mouth."""
    head, colour, pleated = look.head, look.mask_colour, look.mask == "surgical"
    shape = np.array(mirrored(MASK_SHAPES[look.mask]))
    if lowered:
        shape[:, 1] = 0.84 + 0.33 * shape[:, 1] - 0.5 * shape[:, 0] ** 2
    rim = smooth(shape)
    outline = head.project(rim, 1 + 0.1 * np.exp(-((rim[:, :1] / 0.5) ** 2)))  # stands off the face in the middle
    for x, y in shape[abs(shape[:, 0]) > 0.6]:
        if x * head.yaw < 20:  # else the ear is on the far side
            canvas.stroke(head.project([(x, y), (np.sign(x), 0.08 + 0.2 * y)], 1.03), 0.035, shade(colour, 0.85))
    canvas.tint(outline * 1.03, shade(look.skin, 0.4), 0.5, 0.06)
    canvas.fill(outline, colour)
    if look.mask != "respirator" and rng.random() < (0.1 if pleated else 0.75):
        canvas.tint(outline, fabric(rng, colour, canvas.scale * float(rng.uniform(0.12, 0.4))))
    if lowered:
        return
    canvas.tint(head.project(arc((0, 0.95), (0.6, 0.16)), 1.05), shade(colour, 0.55), 0.5, 0.1)
    pleats, seam = [[(-0.76, y), (0.0, y + 0.04), (0.76, y)] for y in (0.34, 0.52, 0.7)], [(0.0, 0.0), (0.0, 1.0)]
    for fold in pleats if pleated else [seam]:
        canvas.stroke(head.curve(fold, lift=1.07), 0.035, shade(colour, 0.72))


def paint_prop(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint what covers a face or its neighbourhood without being a mask worn properly; see ``look.PROPS``."""
    x, y = look.head.project([(0.0, 0.6)], 1.05)[0]
    side, colour, skin = float(rng.choice(SIDES)), any_colour(rng), shade(look.skin, 0.94)
    if look.prop == "chin mask":
        paint_mask(canvas, replace(look, mask=str(rng.choice(list(MASK_SHAPES)))), rng, lowered=True)
    elif look.prop == "scarf":
        top = float(rng.uniform(0.8, 1.05)) * look.head.length
        wrap = smooth(mirrored([(0.0, top + 0.1), (0.95, top - 0.15), (1.2, top + 0.6), (0.0, top + 0.95)]))
        canvas.fill(wrap, colour)
        canvas.tint(wrap, fabric(rng, colour, canvas.scale * 0.3))
    elif look.prop == "cup":
        canvas.fill([(x - 0.42, y - 0.15), (x + 0.42, y - 0.15), (x + 0.34, y + 0.8), (x - 0.34, y + 0.8)], colour)
    else:
        palm = [(x - side * 0.1, y - 0.2), (x + side * 0.7, y - 0.2), (x + side * 1.1, y + 0.7), (x + side * 0.4, 1.6)]
        canvas.fill(smooth(palm), skin)
    if look.prop in ("hand", "cup"):
        canvas.stroke([(x + side * 0.8, y + 0.6), (x + side * 1.5, 3.5)], 0.55, shade(look.clothes, 0.9))
        for height in y + np.array([-0.1, 0.09, 0.28, 0.47]):
            finger = [(x + side * 0.5, height + 0.06), (x - side * 0.5, height - 0.06)]
            canvas.stroke(finger, 0.2, shade(skin, 0.72))
            canvas.stroke(finger, 0.16, skin)


def paint_light(canvas: Canvas, look: Look) -> None:
    """Shade the head and what is on it as a ball lit from one side, darker towards its edge."""
    lit = canvas.pixels[: round((1.9 * look.head.length - TOP) * canvas.scale)]
    angle, strength = np.radians(look.light[0]), look.light[1]
    y, x = np.ogrid[: lit.shape[0], : lit.shape[1]]
    x, y = x / canvas.scale + LEFT, (y / canvas.scale + TOP) / look.head.length
    radius = np.hypot(x, y).astype(np.float32)
    change = strength * (x * np.cos(angle) + y * np.sin(angle)) - 0.2 * np.minimum(radius, 1.25) ** 4
    factor = np.clip(1.06 + change * np.clip((1.9 - radius) / 0.6, 0, 1), 0.25, 1.7)  # fades out over the shoulders
    lit[..., :3] = np.minimum(lit[..., :3] * factor[..., None].astype(np.float32), lit[..., 3:])


def person_canvas(half_width: float, room_below: float) -> Canvas:
    """Return a canvas for a head ``2 * half_width`` pixels wide and what is up to ``room_below`` pixels below it."""
    bottom = float(np.clip(room_below / half_width + 0.3, 2.5, FEET))
    return Canvas(LEFT, TOP, RIGHT, bottom, half_width)


def paint_person(look: Look, half_width: float, room_below: float, rng: np.random.Generator) -> Person:
    """Draw a person; sizes as for ``person_canvas``."""
    canvas = person_canvas(half_width, room_below)
    paint_body(canvas, look, rng)
    paint_face(canvas, look, rng)
    if look.hair_style != "bald":
        paint_hair(canvas, look, rng)
    if look.mask != "none":
        paint_mask(canvas, look, rng)
    if rng.random() < 0.35:
        paint_glasses(canvas, look, rng)
    if look.hat != "none":
        paint_hat(canvas, look)
    paint_light(canvas, look)
    if look.prop != "none":
        paint_prop(canvas, look, rng)
    corner = np.array([LEFT, TOP])
    return Person(canvas.finish(), (look.head.outline() - corner) * half_width, (look.head.box() - corner) * half_width)


def paint_lookalike(look: Look, half_width: float, room_below: float, rng: np.random.Generator) -> Picture:
    """Return, as BGRA, a ball, a teddy bear, somebody who looks away, or a mask that nobody wears.

    ``look`` lends light, hair, clothes and the mask; sizes as for ``person_canvas``.
    """
    canvas = person_canvas(half_width, room_below)
    variant, colour = int(rng.integers(4)), look.skin if rng.random() < 0.6 else any_colour(rng)
    if variant == 0:
        canvas.fill(arc((0, 0), (1, float(rng.uniform(0.9, 1.3)))), colour)
        for height in rng.uniform(-0.7, 0.7, int(rng.integers(5))):
            band = arc((0, height), (float(np.sqrt(1 - height**2)), float(rng.uniform(0, 0.25))), 0, 180)
            canvas.stroke(band, 0.08, shade(colour, 0.6))
    elif variant == 1:
        for x, y, radius, factor in ((0, 2.2, 1.3, 0.9), (-0.8, -0.8, 0.4, 0.8), (0.8, -0.8, 0.4, 0.8), (0, 0, 1, 1)):
            canvas.fill(arc((x, y), (radius, radius)), shade(colour, factor))
        canvas.fill(arc((0, 0.4), (0.5, 0.42)), mix(colour, WHITE, float(rng.uniform(0.3, 0.9))))
        for x, y in ((-0.4, -0.15), (0.4, -0.15), (0, 0.25)):
            canvas.fill(arc((x, y), (0.13, 0.13)), BLACK)
    elif variant == 2:
        paint_body(canvas, look, rng)
        canvas.fill(look.head.outline(lift=1.06), look.hair)
    else:
        paint_mask(canvas, look, rng)
    paint_light(canvas, look)
    return canvas.finish()
