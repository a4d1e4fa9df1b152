"""Names from files of others, made fit for a terminal or for a file system."""

from __future__ import annotations

import re
import unicodedata

JOINERS = "\u200c\u200d"  # invisible, but Persian, Indic scripts and emoji are spelled with them
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format (bidi overrides ...), surrogates, separators of lines
SEPARATORS = '\\/:*?"<>|'
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)  # on Windows


def terminal_text(text: object, keep: str = "") -> str:
    """``text`` with its control characters spelled out, as ``\\x1b``: it can neither colour, move nor hide anything.

    Those in ``keep`` stay. Letters of all scripts, emoji and their joiners are not changed.
    """
    return "".join(
        letter if letter in keep or not _is_invisible(letter) else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


def _is_invisible(letter: str) -> bool:
    return letter not in JOINERS and unicodedata.category(letter) in INVISIBLE


def safe_name(name: str) -> str:
    """``name`` as the name of a file or folder on any system: no separators, nothing invisible, no other meaning.

    ``..``, the devices of Windows (``nul``, ``com1.txt``) and dots or spaces at the end are changed by underscores.
    Different names may become equal: ``folder_names`` keeps them apart.
    """
    plain = "".join("_" if letter in SEPARATORS or _is_invisible(letter) else letter for letter in name)
    plain = re.sub(r"^\.+|[. ]+$", "_", plain)
    return f"_{plain}" if not plain or DEVICES.match(plain) else plain
