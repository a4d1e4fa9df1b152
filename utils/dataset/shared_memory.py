"""Bytes that loader processes share without a copy each, whether they are forked or spawned."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from utils.errors import InputError


class SharedBytes(Protocol):
    """One-dimensional uint8 memory; a pickled one gives the same memory to a process that is being started."""

    @property
    def array(self) -> np.ndarray: ...


def shared_memory(size: int) -> SharedBytes:
    """Memory of ``size`` bytes, all 0, which is freed when no process holds it any more."""
    return AnonymousFile(size) if hasattr(os, "memfd_create") else SharedTensor(size)


class AnonymousFile:
    """Memory of Linux that has a file descriptor but no name. It does not count for /dev/shm, small in containers."""

    def __init__(self, size: int) -> None:
        """Reserve ``size`` bytes; pages take memory when they are written to."""
        descriptor = os.memfd_create("images")
        os.ftruncate(descriptor, max(size, 1))  # a map of 0 bytes is refused
        self._open(descriptor)

    def _open(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        self.array = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)

    def __getstate__(self) -> Any:
        """A copy of the descriptor, for the process that is being started."""
        from multiprocessing.reduction import DupFd

        return DupFd(self._descriptor)

    def __setstate__(self, state: Any) -> None:
        """Map the memory of the process that started this one."""
        self._open(state.detach())


class SharedTensor:
    """The same on other systems, where PyTorch knows how."""

    def __init__(self, size: int) -> None:
        """Reserve ``size`` bytes."""
        import torch

        self._tensor = torch.zeros(size, dtype=torch.uint8).share_memory_()

    @property
    def array(self) -> np.ndarray:
        """The memory."""
        return self._tensor.numpy()


class StoredFile:
    """The bytes of a file after its head, read when they are wanted.

    A mapped file is no faster, and one that is cut off ends the process with SIGBUS, where reading gives an error.
    """

    def __init__(self, path: Path, head: bytes, size: int) -> None:
        """Open ``path``, which must start with ``head``, ``size`` bytes following; raises InputError if it does not."""
        self._parts = path, head, size
        self._path, self._offset, self._turn = path, len(head), threading.Lock()
        try:
            self._stream = open(path, "rb", buffering=0)  # noqa: SIM115 - open as long as this
            matches = self._stream.read(len(head)) == head
            matches &= os.fstat(self._stream.fileno()).st_size == len(head) + size
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        if not matches:
            raise InputError(f"{path} does not have the content that is expected of it")

    def read(self, start: int, end: int) -> np.ndarray:
        """Bytes ``start`` to ``end`` as uint8. Raises InputError if they are not there any more."""
        result = np.empty(end - start, np.uint8)
        try:
            done = self._fill(result.data, self._offset + start)
        except OSError as error:
            raise InputError(f"{self._path} cannot be read any more: {error.strerror or error}") from error
        if done != len(result):
            raise InputError(f"{self._path} was cut off by another program")
        return result

    def _fill(self, target: memoryview, position: int) -> int:
        done = 0
        while done < len(target):
            if hasattr(os, "preadv"):  # keeps no position, which forked processes would share
                count = os.preadv(self._stream.fileno(), [target[done:]], position + done)
            else:
                with self._turn:
                    self._stream.seek(position + done)
                    count = self._stream.readinto(target[done:]) or 0
            if not count:
                break
            done += count
        return done

    def __reduce__(self) -> Any:
        """Another process opens the file itself."""
        return StoredFile, self._parts
