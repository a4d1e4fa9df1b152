"""Writes that fail on demand, as on a full disk."""

from __future__ import annotations

import builtins
import errno
import io
import os
import pathlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATHLIB: Any = getattr(pathlib, "_NormalAccessor", None)  # of Python 3.10, which keeps functions of its own
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
PATCHED = ("open", "write", "fsync", "replace", "rename", "mkdir", "truncate", "ftruncate")  # of os


class FailingWrites:
    """While this is open, write number ``failing`` below ``folder`` fails, and with ``stays`` all after it.

    Attributes:
        count: writes so far.
    """

    def __init__(self, folder: Path, failing: int, stays: bool = True) -> None:
        """``failing`` counts from 1; 0 lets all succeed."""
        self.folder, self.failing, self.stays = str(folder.resolve()), failing, stays
        self.count = 0
        self._turn = threading.Lock()
        self._before: dict[str, Any] = {}

    @property
    def happened(self) -> bool:
        """True if a write has failed."""
        return 0 < self.failing <= self.count

    def step(self, path: object) -> None:
        """Count a write. Raises OSError if this one has to fail."""
        if not self._concerns(path):
            return
        with self._turn:
            self.count += 1
            fails = self.failing and (self.count >= self.failing if self.stays else self.count == self.failing)
        if fails:
            number = ERRORS[self.failing % len(ERRORS)]
            raise OSError(number, os.strerror(number))

    def __enter__(self) -> FailingWrites:
        """Replace Python's functions that write."""
        self._before = {name: getattr(os, name) for name in PATCHED} | {"io.open": io.open}
        for name in PATCHED:
            setattr(os, name, self._counted(name))
        builtins.open = io.open = self._open
        for name in _names_in_pathlib():
            self._before[f"pathlib.{name}"] = vars(PATHLIB)[name]
            setattr(PATHLIB, name, staticmethod(self._open if name == "open" else getattr(os, name)))
        return self

    def __exit__(self, *_: object) -> None:
        """Restore Python's functions."""
        for name in PATCHED:
            setattr(os, name, self._before[name])
        builtins.open = io.open = self._before["io.open"]
        for name in _names_in_pathlib():
            setattr(PATHLIB, name, self._before[f"pathlib.{name}"])

    def _counted(self, name: str) -> Callable[..., Any]:
        ordinary = self._before[name]

        def call(target: Any, *arguments: Any, **keywords: Any) -> Any:
            flags = arguments[0] if arguments else keywords.get("flags", 0)
            if name != "open" or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.step(target)
            return ordinary(target, *arguments, **keywords)

        return call

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **keywords: Any) -> Any:
        writes = any(letter in mode for letter in "wax+")
        if not writes or not self._concerns(file) or keywords.get("opener"):
            return self._before["io.open"](file, mode, buffering, *arguments, **keywords)
        self.step(file)
        raw = CountedFile(file, mode.replace("b", "").replace("t", ""), self)
        binary: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return binary
        text = io.TextIOWrapper(binary, *arguments, **keywords)
        text.mode = mode  # type: ignore[misc]
        return text

    def _concerns(self, path: Any) -> bool:
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
        named = isinstance(path, str | bytes | os.PathLike)
        return named and os.path.abspath(os.fsdecode(path)).startswith(self.folder)


def _names_in_pathlib() -> list[str]:
    return [name for name in PATCHED if name in vars(PATHLIB or object)]


class CountedFile(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, file: Any, mode: str, writes: FailingWrites) -> None:
        super().__init__(file, mode)
        self._writes, self._file = writes, file

    def write(self, data: Any) -> int:
        """Write, unless this write has to fail."""
        self._writes.step(self._file)
        return super().write(data)
