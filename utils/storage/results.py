"""Files made from other files: names that do not collide, and write errors that concern one of them alone."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from utils.errors import InputError, is_of_one_file, reason
from utils.log import LOGGER
from utils.storage.files import fitting_name, safe_name

REMEMBERED_NAMES = 10_000  # of crops, whose last number is known

Incomplete = dict[Path, set[str]]  # sources some of whose files could not be written -> why


class UniqueStems:
    """Stems for files made from other files: the source's own stem, numbered if another source has it already."""

    def __init__(self) -> None:
        self._stems: dict[Path, str] = {}
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}  # of each stem, the last one given

    def __call__(self, path: Path, is_video: bool = False) -> str:
        """Return the stem for files made from ``path``, the same at every call; a numbered one is logged.

        Files made from a video have the frame's number after the stem: no other stem may look like that.
        """
        if path not in self._stems:
            stem = path.stem
            number = self._numbers.get(stem, 1)
            while stem in self._taken or (is_video and self._looks_like_frames(stem)):
                number += 1
                stem = f"{path.stem}_{number}"
            if stem != path.stem:
                self._numbers[path.stem] = number
                LOGGER.warning(
                    f"{path.stem} is taken by the results of another file: those of {path} are called {stem}"
                )
            self._taken.add(stem)
            self._stems[path] = stem
        return self._stems[path]

    def _looks_like_frames(self, stem: str) -> bool:
        start = f"{stem}_"
        return any(taken.startswith(start) and taken[len(start) :].isdecimal() for taken in self._taken)


def folder_names(names: Mapping[int, str], parent: Path) -> dict[int, str]:
    """Choose a folder name for each class: its own name if that is safe and short enough for ``parent``; all different.

    If names are equal, or differ only in case, which some file systems ignore, the class index is appended to the later
    ones. Names that need no change take precedence.
    """
    candidates = {index: fitting_name(parent, safe_name(str(name))) for index, name in names.items()}
    result: dict[int, str] = {}
    taken: set[str] = set()
    for index, folder in candidates.items():
        if folder == names[index] and _as_compared(folder) not in taken:
            result[index] = folder
            taken.add(_as_compared(folder))
    for index, folder in candidates.items():
        if index in result:
            continue
        free = folder
        ending = ""
        while _as_compared(free) in taken:
            ending += f"_{index}"
            free = fitting_name(parent, folder, ending)
        result[index] = free
        taken.add(_as_compared(free))
    return result


def _as_compared(name: str) -> str:
    """Normalise a name as file systems do that ignore case or the composition of letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class CropNames:
    """Unused names for crops: ``a.jpg``, ``a2.jpg``, ...; counting continues where it stopped, not from 2."""

    def __init__(self) -> None:
        self._last: dict[tuple[Path, str], int] = {}  # numbers of the newest files

    def __call__(self, folder: Path, name: str, separator: str = "") -> Path:
        """Return an unused path in ``folder`` for a crop called ``name``; ``separator`` goes before its number."""

        def path(number: int) -> Path:
            return folder / fitting_name(folder, name, f"{separator}{number}.jpg" if number > 1 else ".jpg")

        number = self._last.get((folder, name), 0)
        if number and not os.path.lexists(path(number)):
            number = 0  # the earlier ones were removed
        while os.path.lexists(path(number := number + 1)):
            pass
        if len(self._last) >= REMEMBERED_NAMES:
            self._last.clear()
        self._last[folder, name] = number
        return path(number)


@contextmanager
def one_result(source: Path, folder: Path, incomplete: Incomplete) -> Iterator[None]:
    """Context for writing one file made from ``source`` in ``folder``: an error that concerns only it is logged.

    Such an error is added to ``incomplete``, and logged once for all files made from ``source``.

    Raises:
        OSError, InputError: an error that would also hit other files, such as a full disk.
    """
    try:
        yield
    except (InputError, OSError) as error:
        if not is_of_one_file(error) or not os.access(folder, os.W_OK):
            raise
        reasons = incomplete.setdefault(source, set())
        text = getattr(error, "strerror", "") or str(error)
        if text not in reasons:
            reasons.add(text)
            LOGGER.warning(f"not written: {reason(error)}")
