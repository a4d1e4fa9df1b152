"""Files made from other files: names that do not collide, and write errors that concern one of them alone."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from utils.errors import InputError, is_of_one_file, reason
from utils.log import LOGGER
from utils.names import safe_name
from utils.storage.files import fitting_name

REMEMBERED_NAMES = 10_000  # of crops, whose last number is known

Incomplete = dict[Path, set[str]]  # sources of which something could not be written -> why


class UniqueStems:
    """Stems for files made of others: that of the file itself, numbered where another file has it already."""

    def __init__(self) -> None:
        self._stems: dict[Path, str] = {}
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}  # of each stem, the last one given

    def __call__(self, path: Path, is_video: bool = False) -> str:
        """The stem for what is made of ``path``; the same at every call. A numbered one is told in the log.

        What is made of a video has the number of the frame after the stem: no other stem may look like that.
        """
        if path not in self._stems:
            stem, number = path.stem, self._numbers.get(path.stem, 1)
            while stem in self._taken or (is_video and self._looks_like_frames(stem)):
                number += 1
                stem = f"{path.stem}_{number}"
            if stem != path.stem:
                self._numbers[path.stem] = number
                LOGGER.warning(f"{path.stem} has results of another file: the results of {path} are called {stem}")
            self._taken.add(stem)
            self._stems[path] = stem
        return self._stems[path]

    def _looks_like_frames(self, stem: str) -> bool:
        start = f"{stem}_"
        return any(taken.startswith(start) and taken[len(start) :].isdecimal() for taken in self._taken)


def folder_names(names: Mapping[int, str], parent: Path) -> dict[int, str]:
    """A folder name for each class: its own name if that is safe and short enough for ``parent``, and no two alike.

    Where names are equal, also but for upper and lower case, which some file systems take for equal, the class index is
    appended to the later ones. Those that need no change have the first choice.
    """
    wanted = {index: fitting_name(parent, safe_name(str(name))) for index, name in names.items()}
    result: dict[int, str] = {}
    taken: set[str] = set()
    for index, folder in wanted.items():
        if folder == names[index] and _as_compared(folder) not in taken:
            result[index] = folder
            taken.add(_as_compared(folder))
    for index, folder in wanted.items():
        if index in result:
            continue
        free, ending = folder, ""
        while _as_compared(free) in taken:
            ending += f"_{index}"
            free = fitting_name(parent, folder, ending)
        result[index] = free
        taken.add(_as_compared(free))
    return result


def _as_compared(name: str) -> str:
    """The form in which file systems that ignore case, or the composition of letters, compare names."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class CropNames:
    """Names for crops that no file has: ``a.jpg``, ``a2.jpg``, ...; each goes on from the one before, not from 2."""

    def __init__(self) -> None:
        self._last: dict[tuple[Path, str], int] = {}  # numbers of the newest files

    def __call__(self, folder: Path, name: str, separator: str = "") -> Path:
        """A free path in ``folder`` for a further crop that is called ``name``, and what goes before its number."""

        def path(number: int) -> Path:
            return folder / fitting_name(folder, name, f"{separator}{number}.jpg" if number > 1 else ".jpg")

        number = self._last.get((folder, name), 0)
        if number and not os.path.lexists(path(number)):
            number = 0  # they have been removed
        while os.path.lexists(path(number := number + 1)):
            pass
        if len(self._last) >= REMEMBERED_NAMES:
            self._last.clear()
        self._last[folder, name] = number
        return path(number)


@contextmanager
def one_result(source: Path, folder: Path, incomplete: Incomplete) -> Iterator[None]:
    """Write one file made of ``source`` in ``folder``: an error that concerns it alone is logged, not raised.

    It is added to ``incomplete``, and logged once of all files made of ``source``. Raises OSError or InputError for
    what other files would meet, too, such as a full disk.
    """
    try:
        yield
    except (InputError, OSError) as error:
        if not is_of_one_file(error) or not os.access(folder, os.W_OK):
            raise
        reasons = incomplete.setdefault(source, set())
        kind = getattr(error, "strerror", "") or str(error)
        if kind not in reasons:
            reasons.add(kind)
            LOGGER.warning(f"not written: {reason(error)}")
