"""Checkpoint files: plain content, atomic writing, and copying of matching weights.

A checkpoint is a dict of module objects (``model``, ``ema``) and plain values. Files written here name no class outside
torch, collections and the ``models`` package, so YOLOv5 v6.2 and later can read them.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from utils.commands.interrupts import deferred, obey
from utils.distributed import plain_norms
from utils.errors import InputError
from utils.storage.files import atomic_path
from utils.torch_files import stock_pickle
from utils.torch_files.module_copy import copy_to_cpu
from utils.version import MADE_BY

MODULE_KEYS = ("model", "ema")
CLEARED_KEYS = ("optimizer", "best_fitness", "wandb_id", "ema", "updates")  # None in a stripped file
RESUME_KEY = "resume"  # an addition to training files: random states and counters
MADE_BY_KEY = "made_by"  # an addition to every file, which YOLOv5 ignores: the program and its version

_AS_THEY_ARE = (bool, int, float, complex, str, bytes, range, nn.Module, torch.Size, torch.dtype, torch.device)


# -- plain values ----------------------------------------------------------------------------------------------------


def plain(value: Any, copy: bool = False) -> Any:
    """``value`` without NumPy, paths and namespaces, which other versions of their libraries could not unpickle.

    Scalars and arrays become numbers and lists, paths text, namespaces dicts, and tensors are detached and moved to the
    CPU, with ``copy`` always into new memory; modules stay. Raises TypeError for objects of other classes, which a
    checkpoint must not contain.
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if value is None or isinstance(value, _AS_THEY_ARE):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=copy)
    if isinstance(value, Namespace):
        return plain(vars(value), copy)
    if isinstance(value, Mapping):
        return {plain(key): plain(entry, copy) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(plain(entry, copy) for entry in value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"a checkpoint cannot hold a {type(value).__module__}.{type(value).__qualname__}: {value!r}")


def plain_checkpoint(checkpoint: dict[str, Any], copy: bool = False) -> dict[str, Any]:
    """A copy of ``checkpoint`` with plain values, see ``plain``; best_fitness, in older files an array, is a float."""
    values = {key: plain(value, copy) for key, value in checkpoint.items()}
    fitness = values.get("best_fitness")
    while isinstance(fitness, list):
        fitness = fitness[0] if fitness else 0.0
        values["best_fitness"] = float(fitness) if isinstance(fitness, int | float) else fitness
    return values


def portable_copy(model: nn.Module, half: bool) -> nn.Module:
    """A copy of ``model`` for saving: unwrapped, on the CPU, contiguous, names as a list (v6.2 cannot read a dict).

    Args:
        model: the network, also inside (Distributed)DataParallel.
        half: convert to FP16, as for stripped checkpoints.

    Raises:
        InputError: the model is fused; YOLOv5 could open the file but not run the model.
    """
    source = de_parallel(model)
    if any(hasattr(module, "forward_fuse") and not hasattr(module, "bn") for module in source.modules()):
        raise InputError("a fused model cannot be saved: save it before fuse(), or load it with fuse=False")
    duplicate = plain_norms(copy_to_cpu(source))
    if half:
        duplicate.half()
    for module in duplicate.modules():  # caches of Detect, which each reader rebuilds
        if isinstance(getattr(module, "anchor_grid", None), list) and isinstance(getattr(module, "grid", None), list):
            module.grid = [torch.zeros(1) for _ in module.grid]  # type: ignore[union-attr, assignment]
            module.anchor_grid = [torch.zeros(1) for _ in module.grid]  # type: ignore[union-attr, assignment]
    for tensor in (*duplicate.parameters(), *duplicate.buffers()):
        tensor.data = tensor.data.contiguous()
    for name, value in list(vars(duplicate).items()):
        if not name.startswith("_"):
            setattr(duplicate, name, plain(value))
    names = getattr(duplicate, "names", None)
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        duplicate.names = [names[index] for index in range(len(names))]  # type: ignore[assignment]
    return duplicate


# -- writing ---------------------------------------------------------------------------------------------------------


def save_checkpoint(state: dict[str, Any], path: str | Path, *copies: str | Path) -> None:
    """Write ``state`` to ``path`` and then to each of ``copies``, each atomically; its modules are not changed."""
    write_checkpoint(file_content(state), path, *copies)
    obey()


def file_content(state: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU and in memory of its own: ``state`` may change while it is written.

    Modules are stored in FP16. Only a file with an optimizer, from which training can continue, keeps full precision,
    so that a resumed run equals an uninterrupted one (YOLOv5 reads both). The entry "made_by" states the version that
    wrote the file.
    """
    half = state.get("optimizer") is None
    content = {**plain_checkpoint(state, copy=True), MADE_BY_KEY: MADE_BY}
    for key in MODULE_KEYS:
        if isinstance(content.get(key), nn.Module):
            content[key] = portable_copy(content[key], half)
    return content


def write_checkpoint(content: dict[str, Any], path: str | Path, *copies: str | Path) -> None:
    """Write what ``file_content`` returned to ``path`` and then to each of ``copies``, each atomically."""
    with deferred(), atomic_path(path) as draft, RecordingStream(draft) as stream:
        torch.save(content, cast(Any, stream), pickle_module=stock_pickle)
    for duplicate in copies:
        with deferred(), atomic_path(duplicate) as draft:
            shutil.copyfile(path, draft)


class CheckpointWriter:
    """Writes checkpoints in a thread, one after the other, while training continues."""

    def __init__(self) -> None:
        """Start with nothing to wait for."""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def write(self, state: dict[str, Any], path: str | Path, *copies: str | Path) -> None:
        """Copy ``state``, and start to write it as ``save_checkpoint`` does. Raises the error of an earlier write."""
        self.finish()
        self._pending = self._pool.submit(write_checkpoint, file_content(state), path, *copies)

    def finish(self) -> None:
        """Wait until the files are complete; raises what prevented it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


class RecordingStream:
    """A file for ``torch.save``, whose writer turns a full disk into other errors and cannot handle Python's.

    Every write seems to succeed; the first OSError is raised when the block ends. The archive does not depend on the
    file's name, as it does if torch opens the file.
    """

    def __init__(self, path: Path) -> None:
        """Remember the path; the file is opened by the with statement."""
        self._path = path
        self._error: OSError | None = None

    def __enter__(self) -> RecordingStream:
        """Open the file."""
        self._stream = open(self._path, "wb")
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; raise the first error of writing or closing it."""
        try:
            self._stream.close()
        except OSError as error:
            self._error = self._error or error
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write all of ``data`` and return its size."""
        if self._error is None:
            try:
                self._stream.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Do nothing: the file is flushed when the block ends."""


# -- weights ---------------------------------------------------------------------------------------------------------


def de_parallel(model: nn.Module) -> nn.Module:
    """The network inside DataParallel or DistributedDataParallel, or ``model`` itself."""
    wrapped = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return model.module if wrapped else model  # type: ignore[return-value]


def intersect_dicts(
    first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], exclude: Iterable[str] = ()
) -> dict[str, torch.Tensor]:
    """Entries of ``first`` whose key is in ``second`` with the same shape and contains none of ``exclude``."""
    skipped = tuple(exclude)
    return {
        key: value
        for key, value in first.items()
        if key in second and second[key].shape == value.shape and not any(part in key for part in skipped)
    }


def copy_matching(source: Mapping[str, torch.Tensor], model: nn.Module, exclude: Iterable[str] = ()) -> tuple[int, int]:
    """Copy the entries of a state dict that match ``model`` in name and shape.

    Args:
        source: a state dict.
        model: receives them in place.
        exclude: parts of names to leave out, e.g. 'anchor'.

    Returns:
        The number of copied entries, and the number of entries of ``model`` (parameters and buffers).
    """
    own = model.state_dict()
    matching = intersect_dicts(source, own, exclude)
    model.load_state_dict(matching, strict=False)
    return len(matching), len(own)
