"""Paths, run folders, YAML files, and writes that never leave half a file behind."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.errors import InputError, MissingFileError, short_repr
from utils.storage.drafts import open_draft, synchronise
from utils.storage.yaml_reader import MOST_BYTES, parse_yaml

ROOT = Path(__file__).resolve().parents[2]  # the folder that holds train.py


def make_folder(path: str | Path) -> Path:
    """Create ``path`` with its parents and return it; raises InputError when that is not permitted."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot create the folder {folder} ({error.strerror}): choose a writable place with --project"
        ) from error
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"the folder {folder} is not writable: choose another with --project, or change its permissions"
        )
    return folder


@contextmanager
def atomic_path(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, remove it if not.

    The temporary name keeps the suffix, so that libraries which choose a format by suffix work. A file that is
    replaced passes its permissions on. With ``sync`` the content is on the disk before the name is, so that the old or
    the new file is there, and whole, also after a power failure. Leave that out only for what is cheap to make again
    and made by the thousand: it costs a few milliseconds.
    """
    target = Path(path)
    with open_draft(target) as draft:
        yield draft
        if sync:
            synchronise(draft)
        with suppress(OSError):  # as a rule there is no such file yet
            shutil.copymode(target, draft)
        os.replace(draft, target)
    if sync:
        synchronise(target.parent)


def append_whole(path: str | Path, text: str) -> None:
    """Add ``text`` to a file, on the disk when this returns; if it cannot be written, the file stays as it was."""
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
    """As ``atomic_path``, for a file or a folder that needs its final name while it is made.

    Yields a path of that name within a temporary folder beside ``path``. What was at ``path`` is replaced at the end.
    """
    target = Path(path)
    with open_draft(target) as staging:
        staging.mkdir()
        result, replaced = staging / target.name, staging / "replaced"
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
    wanted = Path(path)
    if wanted.exists() and not exist_ok:
        stem, suffix = (wanted.with_suffix(""), wanted.suffix) if wanted.is_file() else (wanted, "")
        taken = set(os.listdir(wanted.parent))  # one look at the folder, however many there are
        names = (f"{stem.name}{sep}{number}{suffix}" for number in itertools.count(2))
        free = (wanted.with_name(name) for name in names if name not in taken)
        wanted = next(file for file in free if not file.exists())
    if mkdir and not exist_ok:
        try:
            make_folder(wanted.parent)
            wanted.mkdir()
        except FileExistsError as error:  # by now: another process was first
            if not wanted.exists():
                raise InputError(f"{wanted} is a link to nothing: remove it, or choose another --name") from error
            return increment_path(path, exist_ok, sep, mkdir)
        except OSError:  # told by what follows
            pass
    if mkdir:
        make_folder(wanted)
    return wanted


def fitting_name(folder: str | Path, stem: str, ending: str = "") -> str:
    """``stem + ending``; the stem is shortened, and made unique again, where ``folder`` takes no names of that length.

    Args:
        folder: where the name is to be used, which exists; its file system says how many bytes a name may have.
        ending: what comes after the stem and stays as it is.
    """
    longest = 255
    with suppress(OSError, AttributeError, ValueError):  # where it cannot be asked for; nearly all take 255
        longest = os.pathconf(folder, "PC_NAME_MAX")
    encoded, room = os.fsencode(stem), longest - len(os.fsencode(ending))
    if len(encoded) <= room:
        return stem + ending
    mark = "-" + hashlib.blake2b(encoded, digest_size=4).hexdigest()
    short = stem
    while len(os.fsencode(short)) > room - len(mark):
        short = short[:-1]
    return short + mark + ending


def newest_file(folder: Path, pattern: str, remedy: str) -> Path:
    """The file below ``folder`` matching ``pattern`` that was written last. Raises MissingFileError with the remedy."""
    found = max(folder.glob(f"**/{pattern}"), key=lambda path: path.stat().st_mtime, default=None)
    if found is None:
        raise MissingFileError(f"no {pattern} below {folder}: {remedy}")
    return found


def read_yaml(path: str | Path, as_written: bool = False) -> Any:
    """The plain values of a YAML file, within the limits of yaml_reader.py. Raises InputError in one line.

    With ``as_written`` numbers and dates are the texts that stand in the file.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"no such YAML file: {file}")
    with file.open("rb") as stream:
        return parse_yaml(stream.read(MOST_BYTES + 1), file, as_written)


def read_yaml_mapping(path: str | Path) -> dict[Any, Any]:
    """``read_yaml`` for a file that has to hold a mapping. Raises InputError where it holds something else."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {short_repr(content)}: expected lines of the kind 'key: value'")
    return content


def write_yaml(path: str | Path, data: Any, header: str = "") -> None:
    """Write ``data`` as YAML in the order it has, atomically; ``header`` goes in front as comment lines."""
    import yaml

    comment = "".join(f"# {line}\n" for line in header.splitlines())
    with atomic_path(path) as draft:
        draft.write_text(comment + yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic_path(path) as draft:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
