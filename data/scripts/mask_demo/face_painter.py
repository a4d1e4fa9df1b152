"""Paints the face itself: skin, ears, eyes, brows, nose, mouth, beard, glasses, and the light on it."""

from __future__ import annotations

import numpy as np

from data.scripts.mask_demo.canvas import BLACK, WHITE, Canvas, Points, arc, mix, shade, smooth
from data.scripts.mask_demo.look import Look

EYE_X, EYE_Y = 0.37, -0.04


def paint_ear(canvas: Canvas, look: Look, side: int) -> None:
    """Paint the ear on one side (-1 or 1 in face coordinates)."""
    head = look.head
    centre = head.project([(side * 1.02, 0.04)])[0]
    width = 0.17 + 0.1 * abs(np.sin(np.radians(head.yaw)))
    canvas.fill(arc((centre[0], centre[1]), (width, 0.27), 0, 360), shade(look.skin, 0.9))
    canvas.tint(arc((centre[0], centre[1]), (width * 0.5, 0.16), 0, 360), shade(look.skin, 0.6), 0.6, 0.04)


def ear_is_behind(look: Look, side: int) -> bool:
    """Say whether the head hides the inner part of this ear."""
    return bool(side * np.sin(np.radians(look.head.yaw)) >= -0.12)


def paint_skin(canvas: Canvas, look: Look) -> None:
    """Paint the head without features: skin, cheeks, soft shadows that give it depth."""
    head, skin = look.head, look.skin
    canvas.fill(head.outline(), skin)
    blood = mix(skin, (90, 80, 215), 0.4)
    for side in (-1, 1):
        canvas.tint(head.project(arc((side * 0.52, 0.32), (0.22, 0.18))), blood, 0.45, 0.13)
        canvas.tint(head.project(arc((side * EYE_X, EYE_Y - 0.03), (0.25, 0.15))), shade(skin, 0.62), 0.5, 0.08)
    canvas.tint(head.project(arc((0, 0.74), (0.3, 0.05))), shade(skin, 0.7), 0.4, 0.06)
    canvas.tint(head.project(arc((0, -0.45), (0.4, 0.16))), shade(skin, 1.15), 0.5, 0.15)


def paint_eye(canvas: Canvas, look: Look, side: int) -> None:
    """Paint one eye with its lids and its brow."""
    head = look.head
    x, opening = side * EYE_X, 0.085 * look.eyes_open
    line = shade(look.skin, 0.35)
    if look.eyes_open < 0.2:
        canvas.stroke(head.curve([(x - 0.18, EYE_Y), (x, EYE_Y + 0.06), (x + 0.18, EYE_Y)]), 0.05, line)
    else:
        canvas.fill(head.project(arc((x, EYE_Y), (0.17, opening))), mix(WHITE, look.skin, 0.12))
        iris = min(0.085, opening * 1.1)
        canvas.fill(head.project(arc((x, EYE_Y), (0.085, iris))), look.iris)
        canvas.fill(head.project(arc((x, EYE_Y), (0.042, min(0.042, iris)))), BLACK)
        canvas.fill(head.project(arc((x + 0.03, EYE_Y - opening * 0.4), (0.02, 0.02))), WHITE)
        canvas.stroke(head.project(arc((x, EYE_Y), (0.18, opening + 0.01), 180, 360)), 0.05, line)
        canvas.tint(
            head.project(arc((x, EYE_Y + 0.1), (0.16, 0.02))), shade(look.skin, 0.6), 0.2 + 0.4 * look.age, 0.02
        )
    brow = [(x - side * 0.2, -0.2), (x, -0.27 - 0.03 * look.smile), (x + side * 0.22, -0.2)]
    canvas.stroke(head.curve(brow), 0.07, mix(shade(look.hair, 0.8), look.skin, 0.2))


def paint_nose(canvas: Canvas, look: Look) -> None:
    """Paint the nose, which stands off the face and so moves further when the head turns."""
    head, skin = look.head, look.skin
    light_side = -1.0 if np.cos(np.radians(look.light_from)) > 0 else 1.0
    ridge = head.project([(0, -0.05), (0, 0.1)], 1.05)
    tip = head.project(arc((0, 0.26), (0.14, 0.09)), 1.14)
    base = head.project([(0.15 * light_side, 0.28), (0.05 * light_side, -0.05)])
    canvas.tint(np.concatenate([ridge, tip[6:19], base]), shade(skin, 0.7), 0.55, 0.03)
    canvas.tint(tip, shade(skin, 1.1), 0.7, 0.03)
    for side in (-1, 1):
        canvas.fill(head.project(arc((side * 0.065, 0.335), (0.04, 0.022)), 1.08), shade(skin, 0.42))
    canvas.tint(head.project(arc((0, 0.4), (0.16, 0.03))), shade(skin, 0.6), 0.4, 0.03)


def paint_mouth(canvas: Canvas, look: Look) -> None:
    """Paint the lips, closed or open."""
    head = look.head
    corner, drop = 0.56 - 0.06 * look.smile, 0.05 + 0.2 * look.mouth_open
    lips = (70, 60, 190) if look.lipstick else mix(shade(look.skin, 0.78), (90, 85, 190), 0.35)
    upper = [(-0.27, corner), (-0.1, 0.52), (0, 0.54), (0.1, 0.52), (0.27, corner)]
    shape = smooth([*upper, (0.14, 0.58 + drop), (-0.14, 0.58 + drop)])
    canvas.fill(head.project(shape), lips)
    if look.mouth_open:
        inside = smooth([(-0.2, 0.57), (0, 0.56), (0.2, 0.57), (0.1, 0.56 + drop), (-0.1, 0.56 + drop)])
        canvas.fill(head.project(inside), (35, 25, 70))
        canvas.fill(head.project([(-0.13, 0.57), (0.13, 0.57), (0.11, 0.61), (-0.11, 0.61)]), WHITE)
    else:
        middle = [(-0.25, corner), (0, 0.565 + 0.03 * look.smile), (0.25, corner)]
        canvas.stroke(head.curve(middle), 0.03, shade(lips, 0.5))


def paint_beard(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint stubble, a full beard or a moustache."""
    head, colour = look.head, shade(look.hair, 0.9)
    cheeks: Points = smooth(
        [(-0.97, 0.1), (-0.8, 0.35), (-0.4, 0.42), (0, 0.43), (0.4, 0.42), (0.8, 0.35), (0.97, 0.1), (0.82, 0.62)]
        + [(0.4, 1.0), (0, 1.06), (-0.4, 1.0), (-0.82, 0.62)]
    )
    if look.beard == "stubble":
        canvas.tint(head.project(cheeks), colour, 0.4, 0.06)
    elif look.beard == "full":
        length = 1.0 + 0.16 * look.age
        canvas.fill(head.project(cheeks * (1, length), 1.02), colour)
        for x in rng.uniform(-0.7, 0.7, 26):
            y = rng.uniform(0.5, 0.9)
            hair = head.project([(x, y), (x * 0.95, y + 0.14 * length)], 1.02)
            canvas.stroke(hair, 0.025, shade(colour, float(rng.uniform(0.7, 1.5))))
    if look.beard in ("full", "moustache"):
        canvas.fill(
            head.curve([(-0.34, 0.56), (-0.12, 0.42), (0, 0.44), (0.12, 0.42), (0.34, 0.56), (0, 0.5)], True), colour
        )


def paint_wrinkles(canvas: Canvas, look: Look) -> None:
    """Paint the lines of older people."""
    if look.age < 0.4:
        return
    line = shade(look.skin, 0.72)
    for height in (-0.42, -0.5):
        canvas.stroke(look.head.curve([(-0.35, height), (0, height - 0.03), (0.35, height)], False), 0.02, line)
    for side in (-1, 1):
        fold = [(side * 0.17, 0.3), (side * 0.32, 0.45), (side * 0.33, 0.58)]
        canvas.stroke(look.head.curve(fold), 0.025, line)


def paint_glasses(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint glasses in front of the eyes."""
    if look.glasses == "none":
        return
    head = look.head
    frame = BLACK if rng.random() < 0.6 else shade(look.hat_colour, 0.7)
    for side in (-1, 1):
        x = side * EYE_X
        if look.glasses == "round":
            rim = arc((x, 0), (0.25, 0.2))
        else:
            rim = smooth([(x - 0.27, -0.14), (x + 0.27, -0.14), (x + 0.24, 0.16), (x - 0.24, 0.16)])
        lens = head.project(rim, 1.06)
        if look.glasses == "sun":
            canvas.fill(lens, (30, 26, 24))
            canvas.tint(head.project([(x - 0.1, -0.1), (x, -0.1), (x - 0.12, 0.1)], 1.06), WHITE, 0.35, 0.02)
        else:
            canvas.tint(lens, (255, 250, 240), 0.16)
        canvas.stroke(lens, 0.045, frame, True)
        if head.turn([(side * 0.98, 0.0)])[1][0] > -0.3:
            canvas.stroke(head.project([(side * 0.62, -0.06), (side * 1.0, -0.05)], 1.03), 0.045, frame)
    canvas.stroke(head.project([(-0.12, -0.03), (0, -0.06), (0.12, -0.03)], 1.1), 0.045, frame)


def light_head(canvas: Canvas, look: Look) -> None:
    """Shade the head and what is on it as a ball lit from one side, darker towards its edge."""
    reach = 1.9
    middle = np.array([[-reach, -reach], [reach, reach]])
    (x0, y0), (x1, y1) = ((middle - (canvas.left, canvas.top)) * canvas.scale).astype(int)
    rows, columns = canvas.pixels.shape[:2]
    window = (slice(max(0, y0), min(rows, y1)), slice(max(0, x0), min(columns, x1)))
    y, x = np.mgrid[window].astype(np.float32) / canvas.scale
    x, y = x + canvas.left, (y + canvas.top) / look.head.length
    radius = np.minimum(np.hypot(x, y), 1.25)
    angle = np.radians(look.light_from)
    towards = x * np.cos(angle) + y * np.sin(angle)
    inside = np.clip((1.9 - np.hypot(x, y)) / 0.6, 0, 1)  # fades out over hair and shoulders
    factor = 1.06 + (look.light_strength * towards - 0.2 * radius**4) * inside
    canvas.light(np.clip(factor, 0.25, 1.7).astype(np.float32), window)
