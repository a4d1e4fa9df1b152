"""What a drawn person looks like: every trait that chance decides, before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.scripts.mask_demo.canvas import BLACK, WHITE, Colour, any_colour, shade, vary
from data.scripts.mask_demo.head import Head

SKIN_TONES: tuple[Colour, ...] = (
    (198, 214, 246),
    (170, 198, 236),
    (148, 182, 228),
    (122, 160, 212),
    (98, 136, 190),
    (76, 112, 166),
    (58, 86, 136),
    (42, 62, 104),
    (34, 46, 78),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (24, 24, 28),
    (30, 40, 60),
    (40, 66, 104),
    (70, 110, 160),
    (120, 180, 220),
    (50, 80, 170),
    (150, 150, 150),
    (215, 215, 215),
)
HAIR_STYLES = {"bald": 1.0, "buzz": 1.5, "short": 4.0, "side": 2.0, "long": 4.0, "bob": 2.0, "curly": 1.5, "bun": 1.2}
HATS = {"none": 8.0, "cap": 1.0, "beanie": 0.8, "headscarf": 1.0, "helmet": 0.6, "hood": 0.7}
GLASSES = {"none": 7.0, "round": 1.5, "square": 1.5, "sun": 0.8}
MASKS = {"surgical": 4.0, "cloth": 3.0, "respirator": 1.6, "valve": 0.9, "bandana": 0.6}
PROPS = {"none": 10.0, "chin mask": 1.6, "hand": 1.4, "scarf": 1.4, "cup": 1.2, "microphone": 0.7, "flower": 0.5}
BEARDS = {"none": 5.0, "stubble": 1.2, "full": 1.2, "moustache": 0.8}
SURGICAL_COLOURS: tuple[Colour, ...] = (
    (225, 190, 130),
    (228, 205, 160),
    (190, 205, 150),
    (235, 235, 235),
    (40, 40, 42),
    (205, 180, 235),
)


def choose(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    """Pick a key with a probability in proportion to its weight."""
    shares = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=shares / shares.sum()))


@dataclass(frozen=True)
class Look:
    """One person. ``mask`` is 'none' or a kind of mask worn over mouth and nose."""

    head: Head
    skin: Colour
    hair: Colour
    hair_style: str
    hat: str
    hat_colour: Colour
    glasses: str
    iris: Colour
    eyes_open: float  # 0 closed, 1 wide
    smile: float  # -1 sad to 1 glad
    mouth_open: float  # 0 closed to 1
    beard: str
    lipstick: bool
    age: float  # 0 young to 1 old
    mask: str
    mask_colour: Colour
    prop: str
    clothes: Colour
    light_from: float  # angle in degrees where the light comes from, -90 is above
    light_strength: float


def mask_colour(rng: np.random.Generator, kind: str, skin: Colour) -> Colour:
    """Choose a colour that masks of this kind have; now and then it is close to the skin's."""
    if kind == "surgical":
        return vary(rng, SURGICAL_COLOURS[rng.choice(6, p=[0.36, 0.18, 0.12, 0.16, 0.1, 0.08])], 10)
    if kind in ("respirator", "valve"):
        return vary(rng, WHITE if rng.random() < 0.75 else (70, 70, 72), 8)
    if rng.random() < 0.12:
        return vary(rng, shade(skin, float(rng.uniform(0.75, 1.15))), 10)
    return BLACK if rng.random() < 0.2 else any_colour(rng)


def random_head(rng: np.random.Generator) -> Head:
    """Choose a direction: mostly towards us, sometimes well to the side."""
    return Head(
        yaw=float(np.clip(rng.normal(0, 24), -58, 58)),
        pitch=float(np.clip(rng.normal(2, 9), -20, 24)),
        roll=float(np.clip(rng.normal(0, 9), -30, 30)),
        length=float(rng.uniform(1.2, 1.42)),
        jaw=float(rng.uniform(0.12, 0.34)),
    )


def random_look(rng: np.random.Generator, masked: bool, light_from: float, light_strength: float) -> Look:
    """Choose the traits of one person under the scene's light."""
    skin = vary(rng, SKIN_TONES[rng.integers(len(SKIN_TONES))], 8)
    mask = choose(rng, MASKS) if masked else "none"
    hat = choose(rng, HATS)
    beard = "none" if hat == "headscarf" else choose(rng, BEARDS)
    return Look(
        head=random_head(rng),
        skin=skin,
        hair=vary(rng, HAIR_COLOURS[rng.choice(8, p=[0.26, 0.2, 0.16, 0.1, 0.08, 0.06, 0.08, 0.06])], 8),
        hair_style=choose(rng, HAIR_STYLES),
        hat=hat,
        hat_colour=any_colour(rng),
        glasses=choose(rng, GLASSES),
        iris=vary(rng, ((60, 50, 40), (30, 60, 90), (150, 120, 70), (90, 120, 80))[rng.integers(4)]),
        eyes_open=0.0 if rng.random() < 0.06 else float(rng.uniform(0.5, 1)),
        smile=float(rng.uniform(-0.5, 1)),
        mouth_open=float(rng.uniform(0.2, 1)) if rng.random() < 0.3 else 0.0,
        beard=beard,
        lipstick=beard == "none" and rng.random() < 0.3,
        age=float(rng.random() ** 2),
        mask=mask,
        mask_colour=mask_colour(rng, mask, skin),
        prop="none" if masked else choose(rng, PROPS),
        clothes=any_colour(rng),
        light_from=light_from,
        light_strength=light_strength,
    )
