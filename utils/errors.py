"""Errors that a user can cause: their message is one line (what, expected, got, remedy) and needs no traceback."""

from __future__ import annotations

import errno
import reprlib
from typing import Any

LONGEST_QUOTE = 100  # characters
LONGEST_MESSAGE = 2000

# Errors of the disk or of the process: they concern all files, not only the one at which they occurred
_OF_ALL_FILES = {"EDQUOT", "EIO", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EROFS"}
_OF_ALL_FILES_NUMBERS = {getattr(errno, name) for name in _OF_ALL_FILES if hasattr(errno, name)}


class InputError(ValueError):
    """Something the user gave (a flag, a file, a data set) cannot be used; the commands print it and exit with 1."""


class OtherClassesError(InputError):
    """A checkpoint knows other classes than the data set has."""


def loader_failure(error: BaseException) -> str:
    """One line about a process of a data loader that died, if ``error`` says that; else ''."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not text.startswith(("DataLoader worker (pid", "DataLoader timed out")):
        return ""
    return (
        f"{text.split('. ')[0].rstrip('. ')}: a process that loads images has ended, perhaps because memory or "
        "/dev/shm is full: try fewer --workers, or 0, and no --cache ram; --resume continues from last.pt"
    )


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class CheckpointError(InputError):
    """A file that should be a checkpoint is damaged, of another kind, or holds classes that are not allowed."""


def one_line(error: BaseException) -> str:
    """The message of a library's error without line breaks: its first 200 characters."""
    text = " ".join(str(error)[:2000].split())
    return text[:200] or type(error).__name__


def without_middle(message: str) -> str:
    """``message``, without its middle if it is longer than LONGEST_MESSAGE."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    return f"{message[: LONGEST_MESSAGE * 2 // 3]} ... {message[-LONGEST_MESSAGE // 4 :]}"


class _Shortener(reprlib.Repr):
    """``repr`` that reads no more of a value than it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 6
        self.maxstring = self.maxother = 60

    def repr_int(self, x: int, level: int) -> str:
        """Describe numbers of many digits by their length: Python refuses to print the longest."""
        return repr(x) if x.bit_length() < 200 else f"a number of {int(x.bit_length() * 0.30103) + 1} digits"


_SHORTENER = _Shortener()


def short_repr(value: Any) -> str:
    """``repr(value)`` for a message: on one line and at most LONGEST_QUOTE characters, however large the value is."""
    text = " ".join(_SHORTENER.repr(value).split())
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 3]}..."


def is_of_one_file(error: BaseException | None) -> bool:
    """Tell whether ``error``, raised while one file was read or written, concerns that file alone.

    The causes of an InputError are examined, too.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_ALL_FILES_NUMBERS:
            return False
        error = error.__cause__
    return True


def reason(error: BaseException) -> str:
    """The message of ``error`` in one line; for an error of the file system, the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
