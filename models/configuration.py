"""Model configurations: YAML files or mappings, found, read and checked; ``models.parser`` builds their layers."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.commands.options import LARGEST_IMAGE
from utils.dataset.classes import MOST_CLASSES
from utils.errors import InputError, MissingFileError, short_repr
from utils.storage.files import ROOT, read_yaml

REQUIRED_KEYS = ("nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head")
OPTIONAL_KEYS = ("ch", "inplace", "activation", "channels", "modules")
KEYS = REQUIRED_KEYS + OPTIONAL_KEYS
MOST_ROWS = 1000  # yolov5-p7: 42
MOST_ANCHORS = 100  # per level; also the limit for levels
_MOST: dict[str, tuple[Any, float]] = {
    "nc": (int, MOST_CLASSES),
    "depth_multiple": (int | float, 100),
    "width_multiple": (int | float, 100),
    "ch": (int, 1000),
}


def find_config(cfg: str | Path) -> Path:
    """Find the file ``cfg``: in the working folder, in the repository, or by name in models/ and models/hub/.

    Raises:
        MissingFileError: there is no such file.
    """
    name = Path(cfg).name
    for path in (Path(cfg), ROOT / cfg, ROOT / "models" / cfg, ROOT / "models" / name, ROOT / "models/hub" / name):
        if os.path.isfile(path):
            return path
    raise MissingFileError(
        f"no model configuration {str(cfg)[:500]}: looked here, in {ROOT / 'models'} and in its hub folder"
    )


def read_config(cfg: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read and check a configuration: a path, a name in models/ or models/hub/, or a mapping.

    Raises:
        MissingFileError: no such file.
        InputError: a key is missing, unknown, or has a value of the wrong kind.
    """
    title, config = ("the given mapping", cfg) if isinstance(cfg, Mapping) else (cfg, read_yaml(find_config(cfg)))
    if not isinstance(config, Mapping):
        raise InputError(f"{title} is not a model configuration: expected keys {', '.join(REQUIRED_KEYS)}")
    missing = [key for key in REQUIRED_KEYS if key not in config]
    if missing:
        raise InputError(f"{title} is not a model configuration: it lacks {', '.join(missing)}")
    for key in _MOST:
        _check_number(title, key, config.get(key, 1))
    for key in ("backbone", "head"):
        if not isinstance(config[key], list):
            raise InputError(f"{title}: {key} must be a list of rows [from, number, module, arguments]")
    rows = len(config["backbone"]) + len(config["head"])
    if rows > MOST_ROWS:
        raise InputError(f"{title} has {rows} rows, at most {MOST_ROWS} are possible")
    _check_anchors(title, config["anchors"])
    for key in config:
        if key not in KEYS:
            close = difflib.get_close_matches(str(key)[:100], KEYS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(KEYS)}"
            raise InputError(f"{title}: unknown key {short_repr(key)}; {hint}")
    return dict(config)


def _check_number(title: object, key: str, value: Any) -> None:
    """Require a number above 0, and within the limit of ``key``."""
    number, most = _MOST[key]
    if not isinstance(value, number) or isinstance(value, bool) or not 0 < value <= most:
        bound = f" and at most {most}" if isinstance(value, int | float) and value > most else ""
        expected = f"{'a whole number' if number is int else 'a number'} above 0{bound}"
        raise InputError(f"{title}: {key} must be {expected}, got {short_repr(value)}")


def _check_anchors(title: object, anchors: Any) -> None:
    """Require a count per level, or for each level a flat list of equally many widths and heights."""
    if isinstance(anchors, int) and not isinstance(anchors, bool) and 0 < anchors <= MOST_ANCHORS:
        return
    levels = anchors if isinstance(anchors, list) else []
    lengths = {len(level) if isinstance(level, list) and all(map(_is_side, level)) else 0 for level in levels}
    fits = len(lengths) == 1 and 0 not in lengths and not any(length % 2 for length in lengths)
    if not fits or len(levels) > MOST_ANCHORS or max(lengths) > 2 * MOST_ANCHORS:
        expected = f"a count per level, or for each level as many pairs width, height, at most {MOST_ANCHORS}"
        raise InputError(f"{title}: anchors must be {expected}, got {short_repr(anchors)}")


def _is_side(side: Any) -> bool:
    return isinstance(side, int | float) and not isinstance(side, bool) and 0 <= side <= LARGEST_IMAGE
