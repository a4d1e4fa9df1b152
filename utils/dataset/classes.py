"""The class names of a model, and the sign of a training that treated all classes as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SINGLE_CLASS = "item"  # the name that --single-cls gives, also in checkpoints of YOLOv5
SINGLE_CLASS_NOTE = "{} was trained with --single-cls: all classes of the data set count as one here, too"


def class_names(model: Any) -> list[str]:
    """The names of a network, which holds them as a list or by index."""
    names = model.names.values() if isinstance(model.names, dict) else model.names
    return [str(name) for name in names]


def is_single_class(names: Sequence[str], class_count: int) -> bool:
    """Tell if a model with these classes was trained with --single-cls, for a data set of ``class_count`` classes."""
    return list(names) == [SINGLE_CLASS] and class_count > 1
