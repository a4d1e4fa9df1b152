"""Bytes that loader processes share without a copy each, whether they are forked or spawned."""

from __future__ import annotations

import mmap
import os
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


class MappedFile:
    """The bytes of a file after its head, read only; the system reads pages when they are used, and forgets them."""

    def __init__(self, path: Path, head: bytes, size: int) -> None:
        """Map ``path``, which must start with ``head``, ``size`` bytes following; raises InputError if it does not."""
        self._parts = path, head, size
        try:
            with open(path, "rb") as stream:
                matches = stream.read(len(head)) == head and os.fstat(stream.fileno()).st_size == len(head) + size
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if matches else None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        if self._map is None:
            raise InputError(f"{path} does not have the content that is expected of it")
        self.array = np.frombuffer(self._map, np.uint8, offset=len(head))

    def __reduce__(self) -> Any:
        """Another process maps the file itself."""
        return MappedFile, self._parts
