"""Fonts for class names in any script, chosen among matplotlib's and the system's."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

DEFAULT_FAMILY = "DejaVu Sans"  # comes with matplotlib
# Fonts that usually have what the default lacks (Chinese, Japanese, Korean), the most complete first.
_WIDE_FAMILIES = ("noto sans cjk", "source han sans", "wenquanyi", "microsoft yahei", "pingfang", "simhei", "arial uni")
# Fonts of boxes and mathematical fragments, whose tables list characters that they do not draw.
_USELESS = ("last resort", "stix", "cm", "dejavu sans display", "dejavu serif display")


@lru_cache(maxsize=64)
def find_font(characters: str) -> tuple[str, str]:
    """File and family of the font that has most of ``characters``; the default font unless another has more of them."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    default = font_manager.findfont(DEFAULT_FAMILY)
    codes = {ord(character) for character in characters if not character.isspace()}

    def preference(font: font_manager.FontEntry) -> tuple[int, bool, str]:
        ranks = (rank for rank, family in enumerate(_WIDE_FAMILIES) if family in font.name.lower())
        is_special = font.style != "normal" or str(font.weight) != "400"
        return next(ranks, len(_WIDE_FAMILIES)), is_special, font.fname

    def count(file: str) -> int:
        return len(codes & FT2Font(file).get_charmap().keys())

    best, most = (str(default), DEFAULT_FAMILY), count(default)
    for font in sorted(font_manager.fontManager.ttflist, key=preference):
        if most == len(codes):
            break
        if font.name.lower().startswith(_USELESS):
            continue
        try:
            present = count(font.fname)
        except (OSError, RuntimeError):  # removed since matplotlib listed it, or damaged
            continue
        if present > most:
            best, most = (str(font.fname), font.name), present
    return best


@lru_cache(maxsize=64)
def load_font(characters: str, size: int) -> Any:
    """Load the PIL font of ``size`` pixels for ``characters``."""
    from PIL import ImageFont

    return ImageFont.truetype(find_font(characters)[0], size)
