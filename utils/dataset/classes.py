"""Class names, and how to recognise a model that was trained with all classes as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST_CLASSES = 100_000
SINGLE_CLASS = "item"  # the name that --single-cls gives, also in checkpoints of YOLOv5
SINGLE_CLASS_NOTE = "{} was trained with --single-cls: all classes of the data set count as one here, too"


def names_by_index(names: Mapping[int, str] | Sequence[str] | None) -> dict[int, str]:
    """Class names as {index: name}, from such a mapping or a list; empty for None."""
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names or ())
    return {int(index): str(name) for index, name in pairs}


def class_names(model: Any) -> list[str]:
    """Class names of a network, in their order."""
    return list(names_by_index(model.names).values())


def is_single_class(names: Sequence[str], class_count: int) -> bool:
    """Tell if a model with these classes was trained with --single-cls, for a data set of ``class_count`` classes."""
    return list(names) == [SINGLE_CLASS] and class_count > 1
