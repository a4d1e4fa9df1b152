"""Names from other people's files, made safe for a terminal or for a file system."""

from __future__ import annotations

import re
import unicodedata

JOINERS = "\u200c\u200d"  # invisible, but part of the spelling of Persian, Indic scripts and emoji
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format (bidi overrides ...), surrogates, line separators
SEPARATORS = '\\/:*?"<>|'
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)  # on Windows


def terminal_text(text: object, keep: str = "") -> str:
    """``text`` with its control characters escaped, as ``\\x1b``, so it cannot colour, move or hide anything.

    Those in ``keep`` stay. Letters of all scripts, emoji and their joiners are not changed.
    """
    return "".join(
        letter if letter in keep or not _is_invisible(letter) else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


def _is_invisible(letter: str) -> bool:
    return letter not in JOINERS and unicodedata.category(letter) in INVISIBLE


def safe_name(name: str) -> str:
    """``name`` as a file or folder name that is valid on every system: no separators, nothing invisible or special.

    ``..``, the device names of Windows (``nul``, ``com1.txt``) and final dots or spaces are changed with underscores.
    Different names may become equal: ``folder_names`` keeps them distinct.
    """
    plain = "".join("_" if letter in SEPARATORS or _is_invisible(letter) else letter for letter in name)
    plain = re.sub(r"^\.+|[. ]+$", "_", plain)
    return f"_{plain}" if not plain or DEVICES.match(plain) else plain
