"""The project's logger, and text made safe for terminals. Importing it configures nothing: commands call
``setup_logging``."""

from __future__ import annotations

import logging
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("yolov5")
JOINERS = "\u200c\u200d"  # invisible, but part of the spelling of Persian, Indic scripts and emoji
COLAB = "google.colab"  # a module that its notebooks have loaded
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format (bidi overrides ...), surrogates, line separators

_STYLES = {
    "black": 30,
    "red": 31,
    "green": 32,
    "yellow": 33,
    "blue": 34,
    "magenta": 35,
    "cyan": 36,
    "white": 37,
    "bright_black": 90,
    "bright_red": 91,
    "bright_green": 92,
    "bright_yellow": 93,
    "bright_blue": 94,
    "bright_magenta": 95,
    "bright_cyan": 96,
    "bright_white": 97,
    "end": 0,
    "bold": 1,
    "underline": 4,
}
_OWN_STYLE = re.compile("(\033\\[(?:" + "|".join(map(str, _STYLES.values())) + ")m)")
_said: set[str] = set()
MARK = "WARNING"  # in every warning


class _PlainFormatter(logging.Formatter):
    """The bare message; a warning begins with, or contains, the word WARNING.

    Control characters, which names in other people's files may contain, are escaped. The styles of ``colorstr`` stay,
    and so do the line breaks of tables; a warning has none.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno == logging.WARNING and MARK not in text:
            text = f"{MARK}: {text}"
        if text.isprintable():
            return text
        keep = "\n\t" if record.levelno < logging.WARNING or record.exc_info else ""
        parts = _OWN_STYLE.split(text) if sys.stderr.isatty() else [text]  # text at even indices, styles at odd ones
        return "".join(part if index % 2 else terminal_text(part, keep) for index, part in enumerate(parts))


def setup_logging(rank: int = -1) -> None:
    """Send bare messages to stderr: everything on the first process, only errors on the others.

    Set ``YOLOv5_VERBOSE=false`` to log errors only. Calling it again changes the level, but adds no handler.
    """
    verbose = os.environ.get("YOLOv5_VERBOSE", "true").lower() == "true"  # noqa: SIM112
    LOGGER.setLevel(logging.INFO if verbose and rank in (-1, 0) else logging.ERROR)
    LOGGER.propagate = False
    if not LOGGER.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_PlainFormatter("%(message)s"))
        LOGGER.addHandler(handler)


def log_as_command() -> None:
    """Show what is logged, as the commands do, unless the caller has set up logging. For calls from Python.

    A handler of the caller's, of this logger or of the root logger, is left to do its work; so is a level that this
    logger has been given. The root handler that Google Colab installs is not the caller's.
    """
    if LOGGER.handlers or (logging.root.handlers and COLAB not in sys.modules):
        return
    level = LOGGER.level
    setup_logging()
    if level != logging.NOTSET:
        LOGGER.setLevel(level)


@contextmanager
def warnings_only() -> Iterator[None]:
    """Log only warnings and errors within the block, not the tables of networks that are built in it."""
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


def log_once(message: str, level: int = logging.WARNING) -> None:
    """Log ``message`` unless this process has done so before."""
    if message not in _said:
        _said.add(message)
        LOGGER.log(level, message)


def tqdm_is_quiet() -> bool:
    """Tell whether progress bars are hidden because stderr is not a terminal."""
    return not sys.stderr.isatty()


def colorstr(*arguments: str) -> str:
    """Wrap the last argument in the ANSI styles named before it (default: bold blue), if stderr is a terminal."""
    *styles, text = arguments if len(arguments) > 1 else ("blue", "bold", arguments[0])
    if not sys.stderr.isatty():
        return text
    return "".join(f"\033[{_STYLES[style]}m" for style in styles) + text + "\033[0m"


def terminal_text(text: object, keep: str = "") -> str:
    """``text`` with its control characters escaped, as ``\\x1b``, so it cannot colour, move or hide anything.

    Those in ``keep`` stay. Letters of all scripts, emoji and their joiners are not changed.
    """
    return "".join(
        letter if letter in keep or not is_invisible(letter) else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


def is_invisible(letter: str) -> bool:
    """Tell whether a character shows nothing: control and format characters, surrogates, line separators."""
    return letter not in JOINERS and unicodedata.category(letter) in INVISIBLE
