"""Paths, run folders, YAML files, and writes that never leave half a file behind."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import InputError, MissingFileError, short_repr
from utils.yaml_reader import MOST_BYTES, parse_yaml

ROOT = Path(__file__).resolve().parents[1]  # the folder that holds train.py


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
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, remove it if not.

    The temporary name keeps the suffix, so that libraries which choose a format by suffix work.
    """
    target = Path(path)
    draft = target.with_name(f".{target.stem}-{os.getpid()}-{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        yield draft
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """As ``atomic_path``, for a file or a folder that needs its final name while it is made.

    Yields a path of that name within a temporary folder beside ``path``. What was at ``path`` is replaced at the end.
    """
    target = Path(path)
    staging = target.with_name(f".{target.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    staging.mkdir()
    try:
        yield staging / target.name
        if target.is_dir() and not target.is_symlink():
            os.replace(target, staging / "replaced")  # a folder that is not empty cannot be renamed over
        os.replace(staging / target.name, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """Return ``path``, or the first free of path2, path3, ... when it exists and ``exist_ok`` is false.

    A file keeps its suffix (``a.txt`` -> ``a2.txt``); a folder with a dot gets the number at its end.
    """
    wanted = Path(path)
    if wanted.exists() and not exist_ok:
        stem, suffix = (wanted.with_suffix(""), wanted.suffix) if wanted.is_file() else (wanted, "")
        candidates = (Path(f"{stem}{sep}{number}{suffix}") for number in range(2, 9999))
        free = next((candidate for candidate in candidates if not candidate.exists()), None)
        if free is None:
            raise InputError(f"{wanted} and its 9997 numbered successors all exist: choose another --name")
        wanted = free
    if mkdir:
        make_folder(wanted)
    return wanted


def newest_file(folder: Path, pattern: str, remedy: str) -> Path:
    """The file below ``folder`` matching ``pattern`` that was written last. Raises MissingFileError with the remedy."""
    found = max(folder.glob(f"**/{pattern}"), key=lambda path: path.stat().st_mtime, default=None)
    if found is None:
        raise MissingFileError(f"no {pattern} below {folder}: {remedy}")
    return found


def read_yaml(path: str | Path) -> Any:
    """The plain values of a YAML file, within the limits of utils/yaml_reader.py. Raises InputError in one line."""
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"no such YAML file: {file}")
    with file.open("rb") as stream:
        return parse_yaml(stream.read(MOST_BYTES + 1), file)


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
