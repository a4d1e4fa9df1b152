"""Fonts for class names in any script, found among those that matplotlib and the system bring."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

DEFAULT_FAMILY = "DejaVu Sans"  # comes with matplotlib
# Faces that usually have what the default lacks (Chinese, Japanese, Korean), the most complete first.
_WIDE_FAMILIES = ("noto sans cjk", "source han sans", "wenquanyi", "microsoft yahei", "pingfang", "simhei", "arial uni")
# Fonts of boxes and mathematical fragments, whose tables promise characters that they do not show.
_USELESS = ("last resort", "stix", "cm", "dejavu sans display", "dejavu serif display")


@lru_cache(maxsize=64)
def find_font(characters: str) -> tuple[str, str]:
    """(file, family) of the font that has the most of ``characters``; the default one unless another has more."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    default = font_manager.findfont(DEFAULT_FAMILY)
    wanted = {ord(character) for character in characters if not character.isspace()}

    def preference(entry: font_manager.FontEntry) -> tuple[int, bool, str]:
        known = (place for place, family in enumerate(_WIDE_FAMILIES) if family in entry.name.lower())
        return next(known, len(_WIDE_FAMILIES)), entry.style != "normal" or str(entry.weight) != "400", entry.fname

    best, most = (str(default), DEFAULT_FAMILY), _present(FT2Font(default), wanted)
    for entry in sorted(font_manager.fontManager.ttflist, key=preference):
        if most == len(wanted):
            break
        if entry.name.lower().startswith(_USELESS):
            continue
        try:
            present = _present(FT2Font(entry.fname), wanted)
        except (OSError, RuntimeError):  # removed since matplotlib listed it, or damaged
            continue
        if present > most:
            best, most = (str(entry.fname), entry.name), present
    return best


def _present(font: Any, wanted: set[int]) -> int:
    return len(wanted & font.get_charmap().keys())


@lru_cache(maxsize=64)
def load_font(characters: str, size: int) -> Any:
    """The PIL font of ``size`` pixels for ``characters``."""
    from PIL import ImageFont

    return ImageFont.truetype(find_font(characters)[0], size)
