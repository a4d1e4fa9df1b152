"""Drafts: files and folders under a temporary name until they are complete, and the removal of abandoned ones.

A draft's name identifies its writer: ``.draft-<system>-<process>-<random><suffix>``. It is short and independent of
the target's name, so a target may have any name that the file system allows.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_SUFFIX = 20  # bytes; a longer one does not name a format
FOREIGN_SECONDS = 24 * 3600.0  # a draft of another system that is older than this is abandoned
_NAME = re.compile(r"\.draft-(?P<system>[0-9a-f]{6})-(?P<process>\d+)-[0-9a-f]{8}(\..*)?")
_EARLIER_NAME = re.compile(r"\..+-(?P<process>\d+)(-[0-9a-f]{3,8}(\..*)?|\.mp4)")  # of earlier versions
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)  # files and folders that cannot be synchronised

_open: set[str] = set()  # drafts that this process is writing
_swept: set[str] = set()  # folders in which this process has looked for abandoned drafts


def draft_path(target: Path) -> Path:
    """Path for a new draft next to ``target``, with the same suffix: libraries choose a format by it.

    Before its first draft in a folder, a process removes those of dead processes there.
    """
    folder = str(target.parent.absolute())
    if folder not in _swept:
        _swept.add(folder)
        remove_abandoned(target.parent)
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= LONGEST_SUFFIX else ""
    draft = target.with_name(f".draft-{_system()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{suffix}")
    _open.add(str(draft.absolute()))
    return draft


@contextmanager
def open_draft(target: Path) -> Iterator[Path]:
    """Yield a draft's path next to ``target``; remove it at the end if it still exists.

    An OSError that names the draft or no file is changed to name ``target``.
    """
    draft = draft_path(target)
    try:
        yield draft
    except OSError as error:
        if error.errno is not None and error.filename in (None, draft, str(draft)):
            error.filename = str(target)
        raise
    finally:
        _remove(draft)
        _open.discard(str(draft.absolute()))


def remove_abandoned(folder: str | Path, held: bool = False) -> None:
    """Remove the drafts of processes that have ended from ``folder``.

    With ``held`` no other run uses the folder: its subfolders are searched, too, and drafts of earlier versions are
    removed without a look at their process, whose number may have been reused.

    Drafts of running processes stay. Which processes of another system (computer, container or boot) are running is
    not known: its drafts are removed when they have not changed for a day.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if name.startswith(".") and _is_abandoned(Path(parent, name), held):
                _remove(Path(parent, name))
        if not held:
            return


def remove_own() -> None:
    """Remove the drafts of this process, which is about to end."""
    for draft in list(_open):
        _remove(Path(draft))


def synchronise(path: Path) -> None:
    """Write the content of a file, or the names in a folder, to the disk before returning (fsync)."""
    if path.is_dir() and os.name == "nt":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def is_running(process: int) -> bool:
    """Tell whether a process with this number exists on this system."""
    if sys.platform == "win32":
        return _is_running_on_windows(process)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _is_running_on_windows(process: int) -> bool:
    import ctypes

    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined, unused-ignore]
    handle = kernel.OpenProcess(0x00100000, False, process)  # SYNCHRONIZE
    if not handle:
        return kernel.GetLastError() == 5  # it exists and is another user's
    running = kernel.WaitForSingleObject(handle, 0) == 0x102  # WAIT_TIMEOUT
    kernel.CloseHandle(handle)
    return running


@functools.cache
def _system() -> str:
    """Six letters that identify what shares process numbers: this computer since its start, and this container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=3).hexdigest()


def _is_abandoned(path: Path, held: bool) -> bool:
    current = _NAME.fullmatch(path.name)
    earlier = _EARLIER_NAME.fullmatch(path.name)
    if current is None and earlier is None:
        return False
    if current is not None and current["system"] != _system():
        with suppress(OSError):
            return path.lstat().st_mtime < time.time() - FOREIGN_SECONDS
        return False
    if current is None and held:
        return True
    process = int((current or earlier)["process"])  # type: ignore[index]
    if process == os.getpid():
        return str(path.absolute()) not in _open
    return not is_running(process)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # usually there is none; if it cannot be removed, the next process tries again
        path.unlink()
