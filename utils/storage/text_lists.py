"""Text files with one path or address on each line, as people and other programs write them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from utils.errors import InputError
from utils.log import log_once

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
SHOWN_CHARACTERS = 120
QUOTES = "\"'"
BLANK, COMMENT = HARMLESS = ("blank", "a comment")


class TextList:
    """The lines of a list file, and a record of those that are not used.

    Attributes:
        file: the list. lines: (number, stripped text) of all lines but blank ones and comments, which begin with #
            (unless a file has that name).
    """

    def __init__(self, file: Path) -> None:
        """Read ``file``, see ``read_text``."""
        self.file = file
        self._left_out: dict[str, tuple[int, int, str]] = {}  # reason -> count, number and text of the first
        self.lines: list[tuple[int, str]] = []
        for number, line in enumerate(read_text(file).rstrip().splitlines(), 1):
            text = line.strip()
            if not text:
                self.leave_out(number, "", BLANK)
            elif text.startswith("#") and not os.path.exists(text):
                self.leave_out(number, text, COMMENT)
            else:
                self.lines.append((number, text))

    def leave_out(self, number: int, text: str, reason: str) -> None:
        """Count a line that is not used; ``reason`` ends the sentence "the line is ..."."""
        count, first, shown = self._left_out.get(reason, (0, number, text))
        self._left_out[reason] = count + 1, first, shown

    def report(self) -> None:
        """Log once how many lines were left out for each reason, quoting the first."""
        for reason, (count, number, text) in self._left_out.items():
            level = logging.INFO if reason in HARMLESS else logging.WARNING
            first = quoted(number, text)
            if count == 1:
                log_once(f"{self.file}: {first} is left out: it is {reason}", level)
            else:
                log_once(f"{self.file}: {count} lines are left out: each is {reason}; the first is {first}", level)

    def refuse(self, expected: str) -> InputError:
        """The error for a list without usable lines: the first reason other than a comment, and what was expected."""
        for reason, (_, number, text) in self._left_out.items():
            if reason not in HARMLESS:
                what = f"{quoted(number, text)} is {reason}"
                return InputError(f"{self.file} has no usable line: {what}; expected {expected}")
        return InputError(f"{self.file} has no usable line: expected {expected}")


def quoted(number: int, text: str) -> str:
    """``line 3, 'text'``, the text shortened."""
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
    return f"line {number}, {shown!r}" if text else f"line {number}"


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; other bytes become surrogates, as in file names.

    Raises:
        InputError: it is UTF-16 or binary, or cannot be read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    start = content[:1024]
    if content.startswith(UTF16_MARKS) or 3 * start.count(b"\0") > len(start):
        raise InputError(f"{file} is UTF-16 text, expected UTF-8: save it in that encoding")
    if b"\0" in content:
        raise InputError(f"{file} has bytes of value 0, expected UTF-8 text")
    return content.removeprefix(UTF8_MARK).decode("utf-8", "surrogateescape")


def is_utf8(text: str) -> bool:
    """Tell whether ``text``, as returned by ``read_text``, was UTF-8."""
    return not any("\udc80" <= character <= "\udcff" for character in text)


def spellings(text: str) -> Iterator[str]:
    """Yield the paths that a line may mean: as written, without quotes around it, and with / for the \\ of Windows."""
    yield text
    if len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES:
        text = text[1:-1].strip()
        yield text
    if os.sep == "/" and "\\" in text:
        yield text.replace("\\", "/")


def locations(path: str, folder: Path) -> Iterator[str]:
    """Yield where a ``path`` of a list may be: below ``folder`` with ``./``, else below the working folder or it."""
    if path.startswith("./"):
        yield str(folder / path[2:])
        return
    yield path.replace("/", os.sep)
    if not os.path.isabs(path):
        yield str(folder / path)


def find_listed(text: str, folder: Path) -> str | None:
    """The first existing path of those that a line may mean, or None."""
    for spelling in spellings(text):
        for path in locations(spelling, folder):
            if spelling and os.path.exists(path):
                return path
    return None
