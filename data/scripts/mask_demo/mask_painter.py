"""Paints face masks: worn over mouth and nose (class face_mask), or pulled below the chin (class face)."""

from __future__ import annotations

import numpy as np

from data.scripts.mask_demo.canvas import WHITE, Canvas, Points, arc, shade, smooth
from data.scripts.mask_demo.look import Look
from data.scripts.mask_demo.patterns import FABRICS, fabric

SURGICAL = [(-0.8, 0.14), (-0.4, 0.06), (0.0, 0.0), (0.4, 0.06), (0.8, 0.14), (0.8, 0.62), (0.48, 0.96), (0.0, 1.08)]
SURGICAL += [(-0.48, 0.96), (-0.8, 0.62)]
CLOTH = [(-0.86, 0.22), (-0.45, 0.1), (0.0, -0.02), (0.45, 0.1), (0.86, 0.22), (0.82, 0.58), (0.4, 0.92), (0.0, 1.06)]
CLOTH += [(-0.4, 0.92), (-0.82, 0.58)]
CONE = [(-0.7, 0.3), (-0.35, 0.14), (0.0, -0.03), (0.35, 0.14), (0.7, 0.3), (0.64, 0.66), (0.36, 0.94), (0.0, 1.04)]
CONE += [(-0.36, 0.94), (-0.64, 0.66)]
BANDANA = [(-0.97, 0.06), (-0.5, 0.08), (0.0, 0.0), (0.5, 0.08), (0.97, 0.06), (0.9, 0.6), (0.55, 1.0), (0.0, 1.5)]
BANDANA += [(-0.55, 1.0), (-0.9, 0.6)]
SHAPES = {"surgical": SURGICAL, "cloth": CLOTH, "respirator": CONE, "valve": CONE, "bandana": BANDANA}


def paint_loops(canvas: Canvas, look: Look, attached: tuple[tuple[float, float], ...]) -> None:
    """Paint the bands that run from points at the mask's right edge, and their mirror images, to the ears."""
    head = look.head
    for side in (-1, 1):
        if head.turn([(side, 0.1)])[1][0] < -0.45:
            continue  # the far side of a turned head
        for x, y in attached:
            ends = [(side * x, y), (side * 0.99, 0.1 + 0.2 * (y - 0.2))]
            canvas.stroke(head.project(ends, 1.03), 0.035, shade(look.mask_colour, 0.85))


def outline_of(look: Look, kind: str) -> Points:
    """Return the mask's outline in picture units; it stands off the face in the middle."""
    shape = smooth(SHAPES[kind])
    flat, _ = look.head.turn(shape)
    stands_off = 0.12 if kind in ("respirator", "valve") else 0.07
    raised, _ = look.head.turn(shape, 1 + stands_off)
    middle = np.exp(-((shape[:, 0] / 0.5) ** 2))[:, None]
    return look.head.shape(flat * (1 - middle) + raised * middle)


def paint_fabric(canvas: Canvas, look: Look, outline: Points, rng: np.random.Generator) -> None:
    """Fill the mask with a plain or patterned fabric."""
    kind = "plain" if look.mask == "surgical" and rng.random() < 0.9 else str(rng.choice(FABRICS))
    if look.mask in ("respirator", "valve"):
        kind = "plain"
    if kind == "plain":
        canvas.fill(outline, look.mask_colour)
    else:
        cell = canvas.scale * float(rng.uniform(0.12, 0.4))
        canvas.cover(outline, fabric(rng, kind, look.mask_colour, cell, 128))


def paint_folds(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint what is typical of the kind: pleats, a seam, a valve, creases."""
    head, colour = look.head, look.mask_colour
    dark, light = shade(colour, 0.72), shade(colour, 1.12)
    if look.mask == "surgical":
        for y in (0.34, 0.52, 0.7):
            pleat = [(-0.76, y), (-0.3, y + 0.03), (0.3, y + 0.03), (0.76, y)]
            canvas.stroke(head.curve(pleat, lift=1.05), 0.035, dark)
            canvas.stroke(head.curve([(x, v + 0.05) for x, v in pleat], lift=1.05), 0.025, light)
        canvas.stroke(head.curve([(-0.3, 0.09), (0, 0.05), (0.3, 0.09)], lift=1.08), 0.04, WHITE)
    elif look.mask in ("respirator", "valve"):
        canvas.stroke(head.curve([(0.0, -0.02), (0.02, 0.4), (0.0, 1.0)], lift=1.13), 0.035, dark)
        canvas.tint(head.project([(-0.6, 0.32), (0, 0.1), (0, 0.95)], 1.08), WHITE, 0.25, 0.08)
        if look.mask == "valve":
            canvas.fill(head.project(arc((0.3, 0.52), (0.16, 0.14)), 1.1), shade(colour, 0.8))
            canvas.stroke(head.project(arc((0.3, 0.52), (0.1, 0.08)), 1.1), 0.03, shade(colour, 0.5), True)
    else:
        canvas.stroke(head.curve([(0.0, 0.0), (0.02, 0.45), (0.0, 1.0)], lift=1.07), 0.025, dark)
        for side in (-1, 1):
            height = float(rng.uniform(0.35, 0.65))
            crease = [(side * 0.8, height), (side * 0.5, height + 0.08), (side * 0.35, height + 0.05)]
            canvas.stroke(head.curve(crease, lift=1.03), 0.025, dark)


def paint_mask(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint the mask that the person wears over mouth and nose."""
    head = look.head
    outline = outline_of(look, look.mask)
    attached = {"surgical": ((0.78, 0.16), (0.74, 0.66)), "cloth": ((0.82, 0.26), (0.78, 0.58))}
    paint_loops(canvas, look, attached.get(look.mask, ((0.66, 0.34), (0.62, 0.62))))
    canvas.tint(outline * (1.03, 1.03), shade(look.skin, 0.4), 0.5, 0.06)
    paint_fabric(canvas, look, outline, rng)
    canvas.tint(head.project(arc((0, 0.95), (0.6, 0.16)), 1.05), shade(look.mask_colour, 0.55), 0.5, 0.1)
    canvas.tint(head.project(arc((-0.05, 0.3), (0.22, 0.16)), 1.08), WHITE, 0.2, 0.1)
    paint_folds(canvas, look, rng)


def paint_chin_mask(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint a mask that is pulled down below the mouth: the face counts as one without a mask."""
    head = look.head
    rim = [(-0.84, 0.5), (-0.45, 0.78), (0.0, 0.84), (0.45, 0.78), (0.84, 0.5), (0.72, 0.8), (0.4, 1.1), (0.0, 1.2)]
    rim += [(-0.4, 1.1), (-0.72, 0.8)]
    for side in (-1, 1):
        if head.turn([(side, 0.1)])[1][0] > -0.45:
            canvas.stroke(head.project([(side * 0.8, 0.56), (side * 0.99, 0.15)], 1.03), 0.035, shade(WHITE, 0.9))
    outline = head.curve(rim, True, 1.05)
    if rng.random() < 0.6:
        canvas.fill(outline, look.mask_colour)
    else:
        kind = str(rng.choice(FABRICS))
        canvas.cover(outline, fabric(rng, kind, look.mask_colour, canvas.scale * 0.25, 128))
    for y in (0.92, 1.04):
        line = [(-0.6, y - 0.12), (0, y), (0.6, y - 0.12)]
        canvas.stroke(head.curve(line, lift=1.05), 0.03, shade(look.mask_colour, 0.7))
