"""Paths, run folders, YAML and JSON files, and writes that never leave half a file behind."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.errors import InputError, MissingFileError, short_repr
from utils.installation import ROOT as ROOT
from utils.installation import WORK as WORK
from utils.log import is_invisible
from utils.storage.drafts import open_draft, synchronise

SEPARATORS = '\\/:*?"<>|'
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)  # on Windows


def make_folder(path: str | Path) -> Path:
    """Create ``path`` with its parents and return it; raises InputError when that is not permitted."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create the folder {folder} ({error.strerror}): choose a writable folder with --project"
        ) from error
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"the folder {folder} is not writable: choose another with --project, or change its permissions"
        )
    return folder


@contextmanager
def atomic_path(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it to ``path`` if the block succeeds, remove it if not.

    The temporary name keeps the suffix, by which some libraries choose a format. The new file keeps the permissions of
    the one that it replaces. With ``sync`` the content is on the disk before the name, so that even after a power
    failure the old or the new file exists, complete. This costs a few milliseconds: leave it out only for files that
    are cheap to make again and written by the thousand.
    """
    target = Path(path)
    with open_draft(target) as draft:
        yield draft
        if sync:
            synchronise(draft)
        with suppress(OSError):  # usually there is no such file yet
            shutil.copymode(target, draft)
        os.replace(draft, target)
    if sync:
        synchronise(target.parent)


def append_whole(path: str | Path, text: str) -> None:
    """Append ``text`` to a file and sync it to the disk; if that fails, the file stays as it was."""
    file = Path(path)
    before = file.stat().st_size if file.exists() else None
    try:
        with file.open("ab") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = error.filename or str(file)
        with suppress(OSError):
            if before is None:
                file.unlink(missing_ok=True)
            else:
                os.truncate(file, before)
        raise


@contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """``atomic_path`` for a file or a folder that needs its final name while it is written.

    Yields a path of that name within a temporary folder next to ``path``, which is replaced at the end.
    """
    target = Path(path)
    with open_draft(target) as staging:
        staging.mkdir()
        result = staging / target.name
        replaced = staging / "replaced"
        yield result
        for file in [*result.rglob("*"), result]:
            synchronise(file)
        if not target.is_dir() or target.is_symlink():
            os.replace(result, target)
        else:  # a folder that is not empty cannot be renamed over
            os.replace(target, replaced)
            try:
                os.replace(result, target)
            except BaseException:
                os.replace(replaced, target)
                raise
    synchronise(target.parent)


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """Return ``path``, or the first free of path2, path3, ... when it exists and ``exist_ok`` is false.

    A file keeps its suffix (``a.txt`` -> ``a2.txt``); a folder with a dot gets the number at its end.
    """
    free = Path(path)
    if free.exists() and not exist_ok:
        free = _next_free(free, sep)
    if mkdir and not exist_ok:
        try:
            make_folder(free.parent)
            free.mkdir()
        except FileExistsError as error:  # another process was first
            if not free.exists():
                raise InputError(f"{free} is a link to nothing: remove it, or choose another --name") from error
            return increment_path(path, exist_ok, sep, mkdir)
        except OSError:  # make_folder reports it
            pass
    if mkdir:
        make_folder(free)
    return free


def _next_free(path: Path, sep: str) -> Path:
    """The first free of path2, path3, ...; of a file in front of its suffix."""
    suffix = path.suffix if path.is_file() else ""
    stem = path.name.removesuffix(suffix)
    taken = set(os.listdir(path.parent))  # listed once, however many numbers are taken
    numbered = (path.with_name(f"{stem}{sep}{number}{suffix}") for number in itertools.count(2))
    return next(file for file in numbered if file.name not in taken and not file.exists())


def fitting_name(folder: str | Path, stem: str, ending: str = "") -> str:
    """``stem + ending``; a stem too long for ``folder`` is shortened and made unique with a hash.

    Args:
        folder: an existing folder; its file system limits the bytes of a name.
        stem: the part that may be shortened.
        ending: the part that follows it and stays as it is.
    """
    longest = 255
    with suppress(OSError, AttributeError, ValueError):  # unknown; nearly all file systems allow 255
        longest = os.pathconf(folder, "PC_NAME_MAX")
    encoded = os.fsencode(stem)
    room = longest - len(os.fsencode(ending))
    if len(encoded) <= room:
        return stem + ending
    mark = "-" + hashlib.blake2b(encoded, digest_size=4).hexdigest()
    short = stem
    while len(os.fsencode(short)) > room - len(mark):
        short = short[:-1]
    return short + mark + ending


def newest_file(folder: Path, pattern: str, remedy: str) -> Path:
    """The youngest file below ``folder`` that matches ``pattern``. Raises MissingFileError with the remedy."""
    newest = max(folder.glob(f"**/{pattern}"), key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise MissingFileError(f"no {pattern} below {folder}: {remedy}")
    return newest


def read_yaml(path: str | Path, as_written: bool = False) -> Any:
    """The plain values of a YAML file, within the limits of yaml_reader.py. Raises InputError in one line.

    With ``as_written`` numbers and dates are returned as the text in the file.
    """
    from utils.storage.yaml_reader import MOST_BYTES, parse_yaml  # it imports yaml, and every command this file

    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"no such YAML file: {file}")
    with file.open("rb") as stream:
        return parse_yaml(stream.read(MOST_BYTES + 1), file, as_written)


def read_yaml_mapping(path: str | Path) -> dict[Any, Any]:
    """``read_yaml`` for a file that has to hold a mapping. Raises InputError if it holds anything else."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {short_repr(content)}: expected lines such as 'key: value'")
    return content


def write_yaml(path: str | Path, data: Any, header: str = "") -> None:
    """Write ``data`` as YAML atomically, its keys in order, after the comment lines of ``header``."""
    import yaml

    comment = "".join(f"# {line}\n" for line in header.splitlines())
    with atomic_path(path) as draft:
        draft.write_text(comment + yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic_path(path) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def safe_name(name: str) -> str:
    """``name`` as a file or folder name that is valid on every system: no separators, nothing invisible or special.

    ``..``, the device names of Windows (``nul``, ``com1.txt``) and final dots or spaces are changed with underscores.
    Different names may become equal: ``folder_names`` keeps them distinct.
    """
    plain = "".join("_" if letter in SEPARATORS or is_invisible(letter) else letter for letter in name)
    plain = re.sub(r"^\.+|[. ]+$", "_", plain)
    return f"_{plain}" if not plain or DEVICES.match(plain) else plain
