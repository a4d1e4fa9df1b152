"""Paints hair and what is worn on the head, in two layers: behind the face and in front of it."""

from __future__ import annotations

import numpy as np

from data.scripts.mask_demo.canvas import Canvas, Points, arc, mix, shade, smooth
from data.scripts.mask_demo.look import Look

SIDE_LENGTH = {"short": 0.05, "side": 0.1, "long": 0.25, "bob": 0.3, "curly": 0.1, "bun": -0.05, "buzz": 0.0}
THICKNESS = {"short": 1.09, "side": 1.1, "long": 1.1, "bob": 1.12, "curly": 1.16, "bun": 1.06, "buzz": 1.02}


def paint_back_hair(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint what lies behind head and neck: long hair, curls, a bun, the back of a headscarf or hood."""
    head, dark = look.head, shade(look.hair, 0.75)
    if look.hat in ("headscarf", "hood"):
        cloth = shade(look.hat_colour, 0.7)
        canvas.fill(head.outline(lift=1.22), cloth)
        canvas.fill(smooth([(-1.15, 0.2), (1.15, 0.2), (1.35, 1.7), (0, 2.1), (-1.35, 1.7)]), cloth)
    elif look.hair_style in ("long", "bob"):
        bottom = 1.05 if look.hair_style == "bob" else float(rng.uniform(1.5, 2.4))
        spread = float(rng.uniform(1.05, 1.3))
        canvas.fill(head.outline(180, 360, 1.14), dark)
        canvas.fill(smooth([(-1.1, -0.4), (1.1, -0.4), (spread, bottom), (-spread, bottom)]), dark)
    elif look.hair_style == "curly":
        for angle in np.radians(rng.uniform(150, 390, 60)):
            reach = rng.uniform(0.85, 1.3)
            centre = (reach * np.cos(angle), reach * np.sin(angle) * look.head.length)
            canvas.fill(arc(centre, (0.26, 0.26)), shade(dark, float(rng.uniform(0.8, 1.2))))
    elif look.hair_style == "bun":
        canvas.fill(arc((float(rng.uniform(-0.3, 0.3)), -1.55), (0.42, 0.36)), dark)


def hairline(look: Look, lift: float) -> Points:
    """Return the outline of the hair on top of the head: hairline, then back over the crown."""
    head, drop = look.head, SIDE_LENGTH[look.hair_style]
    recede = -0.1 * look.age
    front = [(-1.0, drop + 0.1), (-0.9, -0.25), (-0.62, -0.52 + recede), (0, -0.6 + recede), (0.62, -0.52 + recede)]
    front += [(0.9, -0.25), (1.0, drop + 0.1)]
    if look.hair_style in ("side", "bob"):
        front[3:5] = [(-0.35, -0.66), (0.5, -0.36)]
    edge = float(np.degrees(np.arcsin(np.clip(drop + 0.1, -0.5, 0.5))))
    crown = head.outline(edge, edge - 180 - 2 * edge, lift)
    return np.concatenate([head.curve(front, lift=1.01), crown])


def paint_strands(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint light and dark lines that run from the crown to the hairline."""
    head, count = look.head, 22
    for x in rng.uniform(-0.85, 0.85, count):
        height = float(rng.uniform(-0.75, -0.6))
        reach = float(np.sqrt(max(0.0, 0.95 - x * x)))
        points = [(x * 0.25, -1.0), (x * 0.8, -max(0.66, reach * 0.95)), (x, min(height, -reach * 0.55))]
        colour = shade(look.hair, float(rng.uniform(0.65, 1.6)))
        canvas.stroke(head.curve(points, lift=1.04), 0.03, colour)


def paint_hair(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint the hair in front: on top of the head and at the temples."""
    if look.hair_style == "bald":
        canvas.tint(look.head.project(arc((0.1, -0.72), (0.25, 0.1))), (255, 255, 255), 0.3, 0.12)
        return
    if look.hair_style == "buzz":
        canvas.tint(hairline(look, 1.03), look.hair, 0.75, 0.03)
        return
    canvas.fill(hairline(look, THICKNESS[look.hair_style]), look.hair)
    if look.hair_style == "curly":
        for angle in np.radians(rng.uniform(200, 340, 40)):
            reach = rng.uniform(0.75, 1.1)
            centre = (reach * np.cos(angle), reach * np.sin(angle) * look.head.length)
            canvas.fill(arc(centre, (0.17, 0.17)), shade(look.hair, float(rng.uniform(0.75, 1.35))))
    else:
        paint_strands(canvas, look, rng)


def paint_cap(canvas: Canvas, look: Look) -> None:
    """Paint a cap with a peak."""
    head, colour = look.head, look.hat_colour
    front = head.curve([(-1.0, -0.25), (-0.5, -0.5), (0, -0.55), (0.5, -0.5), (1.0, -0.25)], lift=1.05)
    canvas.fill(np.concatenate([front, head.outline(-15, -165, 1.14)]), colour)
    peak = [(-0.78, -0.42), (0, -0.66), (0.78, -0.42), (0.6, -0.28), (0, -0.36), (-0.6, -0.28)]
    canvas.fill(head.curve(peak, True, 1.2), shade(colour, 0.65))
    canvas.tint(head.project(arc((0, -0.75), (0.2, 0.1)), 1.1), (255, 255, 255), 0.5)


def paint_beanie(canvas: Canvas, look: Look) -> None:
    """Paint a knitted hat with a turned-up brim."""
    head, colour = look.head, look.hat_colour
    low = head.curve([(-1.0, -0.2), (-0.6, -0.42), (0, -0.48), (0.6, -0.42), (1.0, -0.2)], lift=1.06)
    canvas.fill(np.concatenate([low, head.outline(-12, -168, 1.2)]), colour)
    brim = head.curve([(-1.0, -0.28), (-0.6, -0.52), (0, -0.58), (0.6, -0.52), (1.0, -0.28)], lift=1.09)
    canvas.stroke(brim, 0.3, shade(colour, 0.8))
    for x in np.linspace(-0.8, 0.8, 9):
        canvas.stroke(head.project([(x, -0.62), (x * 0.7, -0.95)], 1.12), 0.02, shade(colour, 0.6))


def paint_helmet(canvas: Canvas, look: Look) -> None:
    """Paint a hard hat."""
    head = look.head
    colour = mix(look.hat_colour, (0, 200, 255), 0.6)
    low = head.curve([(-1.0, -0.35), (0, -0.52), (1.0, -0.35)], lift=1.1)
    canvas.fill(np.concatenate([low, head.outline(-20, -160, 1.24)]), colour)
    canvas.stroke(low, 0.16, shade(colour, 0.8))
    canvas.stroke(head.curve([(0, -0.55), (0, -0.8), (0, -1.0)], lift=1.22), 0.2, shade(colour, 1.15))
    canvas.tint(head.project(arc((-0.4, -0.75), (0.18, 0.08)), 1.15), (255, 255, 255), 0.6, 0.05)


def paint_headscarf(canvas: Canvas, look: Look) -> None:
    """Paint the front of a headscarf or of a hood: a ring of cloth around the face."""
    head, colour = look.head, look.hat_colour
    inner = arc((0, 0.03), (0.86, 0.86 if look.hat == "headscarf" else 0.8))
    ring = np.concatenate([head.outline(-270, 90, 1.2), head.project(inner[::-1][18:]), head.project(inner[::-1][:19])])
    canvas.fill(ring, colour)
    canvas.stroke(head.project(inner), 0.08, shade(colour, 0.65), True)
    for angle in (-130, -100, -70, -40):
        fold = head.outline(angle, angle + 25, 1.05)
        canvas.stroke(fold, 0.04, shade(colour, 0.75))
    if look.hat == "headscarf":
        canvas.fill(
            smooth([(-0.9, 0.7), (0, 1.25), (0.9, 0.7), (1.25, 1.7), (0.3, 2.2), (-1.2, 1.9)]), shade(colour, 0.95)
        )
        canvas.stroke(smooth([(-0.8, 0.95), (0.2, 1.5), (1.0, 1.5)], False), 0.05, shade(colour, 0.7))


def paint_headwear(canvas: Canvas, look: Look) -> None:
    """Paint the hat, if any."""
    painters = {
        "cap": paint_cap,
        "beanie": paint_beanie,
        "helmet": paint_helmet,
        "headscarf": paint_headscarf,
        "hood": paint_headscarf,
    }
    if look.hat in painters:
        painters[look.hat](canvas, look)
