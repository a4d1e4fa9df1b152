"""A drawn person's traits: the shape and direction of the head, and what chance decides before the drawing.

Face coordinates: x from -1 (our left) to 1, y from -1 (top of the skull) to 1 (chin), seen from the front. They lie
on a sphere, which is turned, projected straight onto the picture, stretched to the height of a head and narrowed
towards the chin. The picture's unit is half the width of the head, its origin the centre of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.scripts.mask_demo.canvas import Corners, Points, smooth
from data.scripts.mask_demo.surfaces import BLACK, Colour, any_colour, mix, shade, vary

LABEL_TOP = -0.82  # a face is labelled from just above the hairline to the chin
PALE_SKIN, DARK_SKIN = np.array([[198.0, 214, 246], [34, 46, 78]])
HAIR_COLOURS = np.array([[24.0, 24, 28], [35, 50, 80], [120, 180, 220], [50, 80, 170], [190, 190, 190]])
SURGICAL_COLOURS = np.array([[225.0, 190, 130], [228, 205, 160], [190, 205, 150], [245, 245, 245], [205, 180, 235]])
RESPIRATOR_COLOURS = np.array([[245.0, 245, 245], [245, 245, 245], [70, 70, 72]])

# What can be chosen, as often as it is listed
HAIR_STYLES = ("bald", "short", "short", "short", "long", "long")
HATS = ("none", "none", "none", "none", "none", "cap", "beanie", "headscarf")
MASKS = ("surgical", "surgical", "surgical", "cloth", "cloth", "respirator", "respirator", "bandana")
PROPS = ("none", "none", "none", "none", "none", "chin mask", "hand", "scarf", "cup")


@dataclass(frozen=True)
class Head:
    """A head's shape and direction; angles in degrees: yaw > 0 looks right, pitch > 0 looks down."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    length: float = 1.3  # height over width
    jaw: float = 0.2  # by how much the chin is narrower than the temples

    def shape(self, flat: Points) -> Points:
        """Turn projected sphere coordinates into picture units: narrow the jaw, stretch, tilt."""
        x = flat[:, 0] * (1 - self.jaw * np.clip(flat[:, 1], 0, 1.15) ** 2)
        y = flat[:, 1] * self.length
        cos, sin = np.cos(np.radians(self.roll)), np.sin(np.radians(self.roll))
        return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)

    def project(self, face_points: Corners, lift: float | Points = 1.0) -> Points:
        """Return face points (N, 2) in picture units.

        ``lift`` above 1, or (N, 1) of them, raises them off the skin. The far side is moved to the edge of the head.
        """
        flat = np.asarray(face_points, dtype=np.float64)
        reach = np.maximum(1.0, np.hypot(flat[:, 0], flat[:, 1]))
        x, y = flat[:, 0] / reach, flat[:, 1] / reach
        z = np.sqrt(np.maximum(0.0, 1 - x * x - y * y))
        yaw, pitch = np.radians(self.yaw), np.radians(self.pitch)
        x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
        y, z = y * np.cos(pitch) + z * np.sin(pitch), z * np.cos(pitch) - y * np.sin(pitch)
        edge = np.where(z < 0, np.maximum(np.hypot(x, y), 1e-6), 1.0)
        return self.shape(np.stack([x / edge, y / edge], axis=1) * reach[:, None] * lift)

    def curve(self, face_points: Corners, closed: bool = False, lift: float = 1.0) -> Points:
        """Return a smooth line or outline through face points, in picture units."""
        return self.project(smooth(face_points, closed), lift)

    def outline(self, start: float = 0.0, stop: float = 360.0, lift: float = 1.0) -> Points:
        """Return the edge of the head between two angles in degrees (0 right, 90 chin), in picture units."""
        angles = np.radians(np.linspace(start, stop, 49))
        return self.shape(np.stack([np.cos(angles), np.sin(angles)], axis=1) * lift)

    def box(self) -> Points:
        """Return the face's bounding box as [[left, top], [right, bottom]] in picture units."""
        start = float(np.degrees(np.arcsin(LABEL_TOP)))
        points = self.outline(start, 180 - start)
        return np.stack([points.min(axis=0), points.max(axis=0)])


@dataclass(frozen=True)
class Look:
    """One person. ``mask`` is 'none' or a kind of mask worn over mouth and nose."""

    head: Head
    skin: Colour
    hair: Colour
    hair_style: str
    hat: str
    hat_colour: Colour
    mask: str
    mask_colour: Colour
    prop: str
    clothes: Colour
    light: tuple[float, float]  # angle in degrees where it comes from, -90 is above; and its strength


def random_look(rng: np.random.Generator, masked: bool, light: tuple[float, float]) -> Look:
    """Choose the traits of one person under the scene's light; now and then the mask is close to the skin's colour."""
    yaw, pitch, roll = np.clip(rng.normal((0, 2, 0), (24, 9, 9)), (-58, -20, -30), (58, 24, 30)).tolist()
    skin = vary(rng, mix(PALE_SKIN, DARK_SKIN, float(rng.random())))
    mask = str(rng.choice(MASKS)) if masked else "none"
    free_colours = np.array([any_colour(rng), any_colour(rng), BLACK, shade(skin, float(rng.uniform(0.75, 1.15)))])
    mask_colours = {"surgical": SURGICAL_COLOURS, "respirator": RESPIRATOR_COLOURS}.get(mask, free_colours)
    return Look(
        head=Head(yaw, pitch, roll, length=float(rng.uniform(1.2, 1.42)), jaw=float(rng.uniform(0.12, 0.34))),
        skin=skin,
        hair=vary(rng, rng.choice(HAIR_COLOURS)),
        hair_style=str(rng.choice(HAIR_STYLES)),
        hat=str(rng.choice(HATS)),
        hat_colour=any_colour(rng),
        mask=mask,
        mask_colour=vary(rng, rng.choice(mask_colours)),
        prop="none" if masked else str(rng.choice(PROPS)),
        clothes=any_colour(rng),
        light=light,
    )
