"""Locks of run folders: a folder belongs to one run at a time, the one that creates it or continues in it."""

from __future__ import annotations

import errno
import os
import platform
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from utils.errors import InputError
from utils.storage.files import increment_path, make_folder

LOCK_FILE = ".lock"
_HELD_ELSEWHERE = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)
_LOCKED_BYTE = 1 << 20  # behind the text: on Windows others cannot read a locked byte

_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()
_forks_are_handled = False


@contextmanager
def claimed_folder(path: str | Path, exist_ok: bool = False, shared: bool = False) -> Iterator[Path]:
    """Create the folder of a run and hold it during the block: ``path``, or the first free of path2, path3, ...

    With ``exist_ok`` it may exist, but must not be in use by another run, unless both are ``shared``. A folder that was
    created here and is still empty when an error ends the block is removed again.

    Raises:
        InputError: it cannot be created, or is in use by another run, which is named.
    """
    first = Path(path)
    missing = [parent for parent in first.parents if not parent.exists()]
    created = not (exist_ok and first.exists())
    folder = make_folder(first) if exist_ok else increment_path(first, mkdir=True)
    try:
        with nullcontext() if shared else held_folder(folder):
            yield folder
    except BaseException:
        with suppress(OSError):  # one that is not empty
            for empty in [folder, *missing] if created else []:
                empty.rmdir()
        raise


@contextmanager
def held_folder(folder: str | Path) -> Iterator[Path]:
    """Hold an existing folder, so that no other run can use it. Raises InputError naming the run that already does."""
    lock = FolderLock(Path(folder))
    lock.acquire()
    try:
        yield lock.folder
    finally:
        lock.release()


class FolderLock:
    """A lock that the system releases when the process ends, however it ends; no stale lock can stay behind.

    It is on a file in the folder, so it also holds between containers and on NFS. On a file system without locks,
    folders are not protected.
    """

    def __init__(self, folder: Path) -> None:
        """Remember the folder; nothing is locked yet."""
        self.folder = folder
        self.file = folder / LOCK_FILE
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock. Raises InputError if another run has it or the folder is not writable."""
        _handle_forks()
        while self._descriptor < 0:
            try:
                descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise InputError(
                    f"cannot write to the folder {self.folder} ({error.strerror}): free some space, change its "
                    "permissions, or choose another --project"
                ) from error
            try:
                _lock(descriptor)
            except OSError as error:
                if error.errno in _HELD_ELSEWHERE:
                    holder = _read(descriptor)
                    os.close(descriptor)
                    raise InputError(
                        f"{self.folder} is in use by {holder}: wait until that has ended, or choose another --name"
                    ) from None
            if _is_at(descriptor, self.file):
                self._descriptor = descriptor
            else:  # its holder removed it meanwhile
                os.close(descriptor)
        _held.add(self)
        with suppress(OSError):  # only information for other runs
            words = f"process {os.getpid()} on {platform.node()} ({Path(sys.argv[0] or 'python').name})\n"
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, words.encode("utf-8", "replace"))

    def release(self) -> None:
        """Release the lock and remove its file."""
        if self._descriptor < 0:
            return
        _held.discard(self)
        with suppress(OSError):  # Windows cannot remove an open file; it does no harm
            if _is_at(self._descriptor, self.file):
                self.file.unlink()
        self.forget()

    def forget(self) -> None:
        """Close the file in a forked process, so that it does not hold its parent's lock."""
        descriptor, self._descriptor = self._descriptor, -1
        with suppress(OSError):
            os.close(descriptor)


def release_all() -> None:
    """Release all locks of this process, which is about to end."""
    for lock in list(_held):
        lock.release()


def _handle_forks() -> None:
    global _forks_are_handled
    if not _forks_are_handled and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_all)
    _forks_are_handled = True


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _read(descriptor: int) -> str:
    with suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        words = os.read(descriptor, 400).decode("utf-8", "replace")
        return "".join(letter for letter in words if letter.isprintable()) or "another run"
    return "another run"


if sys.platform == "win32":

    def _lock(descriptor: int) -> None:
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)

else:

    def _lock(descriptor: int) -> None:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
