"""Paints what covers a face or its neighbourhood but is no mask: a hand, a cup, a scarf and the like."""

from __future__ import annotations

import numpy as np

from data.scripts.mask_demo.canvas import BLACK, WHITE, Canvas, any_colour, arc, shade, smooth
from data.scripts.mask_demo.look import Look
from data.scripts.mask_demo.mask_painter import paint_chin_mask
from data.scripts.mask_demo.patterns import FABRICS, fabric


def paint_hand(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint a hand over mouth and chin."""
    x, _ = look.head.project([(0.0, 0.6)])[0]
    side = 1.0 if rng.random() < 0.5 else -1.0
    skin = shade(look.skin, 0.94)
    canvas.stroke(np.array([[x + side * 0.9, 1.6], [x + side * 1.6, 3.6]]), 0.6, look.clothes)
    canvas.fill(smooth([(x - 0.1, 0.55), (x + side * 0.7, 0.6), (x + side * 1.1, 1.5), (x + side * 0.4, 1.6)]), skin)
    for finger in range(4):
        y = 0.5 + 0.19 * finger
        length = 0.62 - 0.07 * abs(finger - 1)
        line = np.array([[x + side * 0.4, y + 0.06], [x - side * length, y - 0.06]])
        canvas.stroke(line, 0.2, shade(skin, 0.72))
        canvas.stroke(line, 0.16, skin)
        canvas.stroke(line[1:] + np.array([[0.0, 0.0], [side * 0.07, 0.01]]), 0.08, shade(skin, 1.15))


def paint_cup(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint a cup held to the mouth, hiding it."""
    x, y = look.head.project([(0.0, 0.6)], 1.1)[0]
    colour = WHITE if rng.random() < 0.5 else any_colour(rng)
    canvas.fill(
        np.array([[x - 0.42, y - 0.15], [x + 0.42, y - 0.15], [x + 0.34, y + 0.8], [x - 0.34, y + 0.8]]), colour
    )
    canvas.tint(
        np.array([[x + 0.1, y - 0.1], [x + 0.42, y - 0.1], [x + 0.34, y + 0.8], [x + 0.1, y + 0.8]]), BLACK, 0.25
    )
    canvas.fill(arc((x, y - 0.15), (0.42, 0.09)), shade(colour, 0.8))
    if rng.random() < 0.6:
        canvas.fill(arc((x, y + 0.35), (0.18, 0.18)), any_colour(rng))
    for finger in range(3):
        line = np.array([[x + 0.55, y + 0.2 + 0.19 * finger], [x + 0.15, y + 0.22 + 0.19 * finger]])
        canvas.stroke(line, 0.17, shade(look.skin, 0.8 + 0.05 * finger))
    canvas.stroke(np.array([[x + 0.6, y + 0.5], [x + 1.3, 3.4]]), 0.5, shade(look.clothes, 0.9))


def paint_microphone(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint a microphone in front of the mouth."""
    x, y = look.head.project([(0.0, 0.65)], 1.1)[0]
    lean = float(rng.uniform(-0.5, 0.5))
    canvas.stroke(np.array([[x, y + 0.2], [x + lean, y + 1.6]]), 0.2, BLACK)
    canvas.fill(arc((x, y + 0.08), (0.25, 0.27)), (75, 75, 80))
    canvas.tint(arc((x - 0.08, y), (0.09, 0.09)), WHITE, 0.6, 0.04)
    canvas.fill(arc((x + lean * 0.7, y + 1.15), (0.3, 0.24)), shade(look.skin, 0.9))


def paint_scarf(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint a scarf around the neck, up to the chin."""
    top = float(rng.uniform(0.85, 1.05)) * look.head.length
    colour = any_colour(rng)
    wrap = smooth(
        [(-0.95, top - 0.15), (0, top + 0.1), (0.95, top - 0.15), (1.2, top + 0.6), (0, top + 0.95), (-1.2, top + 0.6)]
    )
    canvas.cover(wrap, fabric(rng, str(rng.choice(FABRICS)), colour, canvas.scale * 0.3, 128))
    for height in (0.3, 0.55):
        line = smooth([(-1.0, top + height - 0.2), (0, top + height + 0.1), (1.0, top + height - 0.2)], False)
        canvas.stroke(line, 0.05, shade(colour, 0.6))


def paint_flower(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Paint a flower held before the mouth."""
    x, y = look.head.project([(0.0, 0.55)], 1.1)[0]
    canvas.stroke(np.array([[x, y], [x + 0.2, y + 2.0]]), 0.07, (60, 140, 60))
    petal = any_colour(rng, (0.5, 1.0))
    for angle in np.linspace(0, 2 * np.pi, 7)[:-1]:
        canvas.fill(arc((x + 0.26 * np.cos(angle), y + 0.26 * np.sin(angle)), (0.17, 0.17)), petal)
    canvas.fill(arc((x, y), (0.15, 0.15)), (40, 200, 240))


PAINTERS = {
    "hand": paint_hand,
    "cup": paint_cup,
    "microphone": paint_microphone,
    "scarf": paint_scarf,
    "flower": paint_flower,
    "chin mask": paint_chin_mask,
}
