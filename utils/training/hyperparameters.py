"""Hyperparameters: their ranges, reading them, and scaling the loss gains."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

from utils.errors import InputError, short_repr
from utils.storage.files import read_yaml_mapping

HYPERPARAMETER_RANGES: dict[str, tuple[float, float]] = {
    "lr0": (0, 10),
    "lrf": (0, 10),
    "momentum": (0, 1),
    "weight_decay": (0, 1),
    "warmup_epochs": (0, 1e6),
    "warmup_momentum": (0, 1),
    "warmup_bias_lr": (0, 10),
    "box": (0, 1e6),
    "cls": (0, 1e6),
    "cls_pw": (0, 1e6),
    "obj": (0, 1e6),
    "obj_pw": (0, 1e6),
    "iou_t": (0, 1),
    "anchor_t": (1, 1e6),
    "fl_gamma": (0, 100),
    "hsv_h": (0, 1),
    "hsv_s": (0, 1),
    "hsv_v": (0, 1),
    "degrees": (0, 180),
    "translate": (0, 1),
    "scale": (0, 1),
    "shear": (0, 90),
    "perspective": (0, 0.1),
    "flipud": (0, 1),
    "fliplr": (0, 1),
    "mosaic": (0, 1),
    "mixup": (0, 1),
    "copy_paste": (0, 1),
}


def read_hyperparameters(source: str | Path | dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters from a YAML file or a mapping: every key known, present and in range.

    Raises:
        InputError: naming the first key that is missing, unknown, not a number or out of range.
    """
    if isinstance(source, dict):
        values, origin = dict(source), "the given hyperparameters"
    else:
        values, origin = read_yaml_mapping(source), str(source)
    missing = [name for name in HYPERPARAMETER_RANGES if name not in values]
    if missing:
        raise InputError(f"{origin} lacks {', '.join(missing)}: copy them from data/hyps/hyp.scratch-low.yaml")
    for name, value in values.items():
        if name not in HYPERPARAMETER_RANGES and name != "anchors":
            close = difflib.get_close_matches(str(name)[:100], HYPERPARAMETER_RANGES, n=1)
            raise InputError(
                f"{origin}: unknown hyperparameter {short_repr(name)}"
                + (f", did you mean {close[0]!r}?" if close else "")
            )
        low, high = HYPERPARAMETER_RANGES.get(name, (1, 100))  # anchors: per level
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
            hint = "; YAML reads 1e-3 as text: write 1.0e-3 or 0.001" if _is_number(value) else ""
            raise InputError(f"{origin}: {name} must be a number in [{low:g}, {high:g}], got {short_repr(value)}{hint}")
    return values


def _is_number(text: Any) -> bool:
    try:
        return isinstance(text, str) and math.isfinite(float(text))
    except ValueError:
        return False


def scaled_hyperparameters(
    hyp: dict[str, Any], levels: int, class_count: int, image_size: int, label_smoothing: float
) -> dict[str, Any]:
    """``hyp`` with the loss gains, which are given for 3 levels, 80 classes and 640 pixels, scaled to a run."""
    per_level = 3 / levels
    return hyp | {
        "box": hyp["box"] * per_level,
        "cls": hyp["cls"] * (class_count / 80 * 3 / levels),
        "obj": hyp["obj"] * ((image_size / 640) ** 2 * 3 / levels),
        "label_smoothing": label_smoothing,
    }
