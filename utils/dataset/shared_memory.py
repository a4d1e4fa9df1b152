"""Memory that loader processes share without copying it, whether they are forked or spawned."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from multiprocessing import reduction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from utils.errors import InputError


class SharedBytes(Protocol):
    """One-dimensional uint8 memory; pickling it for a process that is being started shares it with that process."""

    @property
    def array(self) -> np.ndarray: ...


def shared_memory(size: int) -> SharedBytes:
    """Memory of ``size`` zero bytes, freed when no process uses it any more."""
    return AnonymousFile(size) if hasattr(os, "memfd_create") else SharedTensor(size)


class AnonymousFile:
    """Memory on Linux with a file descriptor but no name. It does not use /dev/shm, which is small in containers."""

    def __init__(self, size: int) -> None:
        """Reserve ``size`` bytes; a page takes memory once it is written to."""
        descriptor = os.memfd_create("images")
        os.ftruncate(descriptor, max(size, 1))  # 0 bytes cannot be mapped
        self._open(descriptor)

    def _open(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        self.array = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)

    def __getstate__(self) -> Any:
        """Duplicate the descriptor for the process that is being started."""
        return reduction.DupFd(self._descriptor)

    def __setstate__(self, state: Any) -> None:
        """Map the memory of the process that started this one."""
        self._open(state.detach())


class SharedTensor:
    """The same on other systems, by PyTorch's means."""

    def __init__(self, size: int) -> None:
        """Reserve ``size`` bytes."""
        self._tensor = torch.zeros(size, dtype=torch.uint8).share_memory_()

    @property
    def array(self) -> np.ndarray:
        """View of the memory."""
        return self._tensor.numpy()


class StoredFile:
    """The bytes of a file after its head, read on demand.

    Mapping the file was not faster, and if another program truncates it, a mapped file ends the process with SIGBUS,
    while reading raises an error.
    """

    def __init__(self, path: Path, head: bytes, size: int) -> None:
        """Open ``path``. Raises InputError unless it consists of ``head`` and ``size`` bytes."""
        self._parts = path, head, size
        self._path, self._offset, self._lock = path, len(head), threading.Lock()
        try:
            self._stream = open(path, "rb", buffering=0)  # noqa: SIM115 - open as long as this
            matches = (
                self._stream.read(len(head)) == head and os.fstat(self._stream.fileno()).st_size == len(head) + size
            )
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        if not matches:
            raise InputError(f"{path} does not have the expected content")

    def read(self, start: int, end: int) -> np.ndarray:
        """Bytes ``start`` to ``end`` after the head, as uint8. Raises InputError if they cannot be read any more."""
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
            if hasattr(os, "preadv"):  # does not move the position, which forked processes share
                count = os.preadv(self._stream.fileno(), [target[done:]], position + done)
            else:
                with self._lock:
                    self._stream.seek(position + done)
                    count = self._stream.readinto(target[done:]) or 0
            if not count:
                break
            done += count
        return done

    def __reduce__(self) -> Any:
        """Open the file again in the other process."""
        return StoredFile, self._parts
