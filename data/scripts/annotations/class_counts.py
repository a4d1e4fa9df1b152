"""Objects of each class: those that were asked for, and those that were written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from data.scripts.annotations.records import Annotations
from utils.errors import InputError
from utils.log import LOGGER

MOST_LISTED = 10  # classes in a message


def check_names(names: Sequence[str], contents: Iterable[Annotations], chosen: bool) -> None:
    """Raise InputError if no object has one of the classes; if they were ``chosen``, warn of each without objects."""
    counts = Counter(marked.name for content in contents for image in content.images for marked in image.objects)
    listed = ", ".join(f"{name} ({count})" for name, count in counts.most_common(MOST_LISTED))
    absent = [name for name in names if not counts[name]]
    if not counts:
        raise InputError("no object is marked in any of the images: there is nothing to convert")
    if len(absent) == len(names):
        raise InputError(
            f"no object has one of the classes {', '.join(names)}; the annotations have {listed}: correct --names"
        )
    for name in absent if chosen else ():
        LOGGER.warning(f"WARNING: no object is called {name!r}; the annotations have {listed}")


def log_table(
    parts: Mapping[str, Sequence[str]], counts: Mapping[str, Mapping[str, int]], names: Sequence[str]
) -> None:
    """Log the images and the objects of each class, by split, and warn of classes that a split lacks.

    Args:
        parts: split -> absolute paths of its images.
        counts: absolute path of an image -> class -> objects.
        names: of the classes.
    """
    rows = [("class", *parts), ("images", *(str(len(images)) for images in parts.values()))]
    for name in names:
        numbers = [sum(counts[image].get(name, 0) for image in images) for images in parts.values()]
        rows.append((name, *map(str, numbers)))
        for split, number in zip(parts, numbers, strict=True):
            if not number:
                LOGGER.warning(f"WARNING: the {split} images have no object of class {name!r}")
    width = max(len(row[0]) for row in rows)
    lines = [f"{row[0]:<{width}}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows]
    LOGGER.info("\n".join(["", *lines, ""]))
