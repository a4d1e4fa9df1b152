"""Unpack untrusted archives: nothing is written outside the chosen folder, and no link is created."""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from utils.errors import InputError
from utils.storage.files import make_folder

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


class _Entry(NamedTuple):
    """One file of an archive; ``link`` is the target of a link, as a path within the archive."""

    path: str
    size: int
    link: str | None
    handle: zipfile.ZipInfo | tarfile.TarInfo


def is_archive(file: str | Path) -> bool:
    """Tell whether the name has the suffix of an archive that ``unpack`` can read."""
    return str(file).lower().endswith(ARCHIVE_SUFFIXES)


def unpack(archive: str | Path, folder: str | Path) -> Path:
    """Unpack a .zip or .tar(.gz, .bz2, .xz) file into ``folder``, which may hold other files, and return the folder.

    The files appear in ``folder`` only when all are unpacked; existing ones of the same names are replaced. A link
    within the archive becomes a copy of its target.

    Raises:
        InputError: the archive is damaged or of another kind, the disk is too small, or an entry is a device, has an
            absolute path, or leads out of the folder by its path or link. Then nothing is unpacked.
    """
    file = Path(archive)
    target = make_folder(folder)
    staging = target / f".unpacking-{uuid.uuid4().hex[:8]}"
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as zipped:
                _unpack_zip(zipped, file, staging)
        elif tarfile.is_tarfile(file):
            with tarfile.open(file) as tarred:
                _unpack_tar(tarred, file, staging)
        else:
            raise InputError(f"{file} is not an archive that can be unpacked: expected {', '.join(ARCHIVE_SUFFIXES)}")
        _merge(staging, target)
    except _DAMAGE as error:
        raise InputError(f"{file} is damaged ({error}): delete it and download it again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _unpack_zip(archive: zipfile.ZipFile, file: Path, staging: Path) -> None:
    entries = []
    for info in archive.infolist():
        path = _inside(info.filename, file)
        file_type = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir():
            continue
        link = None
        if file_type == stat.S_IFLNK:
            pointed = archive.read(info).decode("utf-8", errors="replace")
            link = _inside(posixpath.join(posixpath.dirname(path), pointed), file)
        elif file_type not in (0, stat.S_IFREG):
            raise InputError(f"{file} is refused: its entry {info.filename} is neither a file nor a folder")
        entries.append(_Entry(path, info.file_size, link, info))
    for entry, source in _resolved(entries, file, staging):
        with archive.open(source.handle) as content:  # type: ignore[arg-type]
            _write(content, staging / entry.path)


def _unpack_tar(archive: tarfile.TarFile, file: Path, staging: Path) -> None:
    entries = []
    for info in archive:
        path = _inside(info.name, file)
        if info.isdir():
            continue
        link = None
        if info.issym():
            link = _inside(posixpath.join(posixpath.dirname(path), info.linkname), file)
        elif info.islnk():
            link = _inside(info.linkname, file)
        elif not info.isreg():
            raise InputError(f"{file} is refused: its entry {info.name} is neither a file nor a folder")
        entries.append(_Entry(path, info.size, link, info))
    for entry, source in _resolved(entries, file, staging):
        content = archive.extractfile(source.handle)  # type: ignore[arg-type]
        assert content is not None  # only regular files come here
        with content:
            _write(content, staging / entry.path)


def _inside(name: str, file: Path) -> str:
    """The normalised path of an entry. Raises InputError if it leads out of the target folder."""
    path = posixpath.normpath(name.replace("\\", "/"))
    absolute = path.startswith("/") or path[1:2] == ":"
    if absolute or path == ".." or path.startswith("../") or "\0" in path:
        raise InputError(f"{file} is refused: its entry {name!r} leads out of the folder it is unpacked into")
    return path


def _resolved(entries: list[_Entry], file: Path, staging: Path) -> Iterator[tuple[_Entry, _Entry]]:
    """Yield each entry and the regular file whose content it has, with a progress bar."""
    from tqdm import tqdm

    needed = sum(entry.size for entry in entries)
    free = shutil.disk_usage(staging.parent).free
    if needed > free:
        raise InputError(f"{file} unpacks to {needed / 1e9:.1f} GB but {free / 1e9:.1f} GB are left: free some space")
    by_path = {entry.path: entry for entry in entries}
    for entry in tqdm(entries, desc=f"Unpacking {file.name}", unit="files", disable=None, leave=False):
        source: _Entry | None = entry
        for _ in range(len(entries)):
            if source is None or source.link is None:
                break
            source = by_path.get(source.link)
        if source is None or source.link is not None:
            raise InputError(f"{file} is refused: its link {entry.path} points to no file of the archive")
        yield entry, source


def _write(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        shutil.copyfileobj(content, stream, 1 << 20)


def _merge(staging: Path, target: Path) -> None:
    """Move every file below ``staging`` to the same path below ``target``."""
    for folder, _, names in os.walk(staging):
        destination = target / Path(folder).relative_to(staging)
        destination.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(Path(folder) / name, destination / name)
