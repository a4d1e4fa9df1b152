"""A loader whose worker processes prepare the first batches of an epoch ahead, while the run does something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

LAST_BATCHES = 10


class EpochLoader:
    """Iterates a ``DataLoader`` epoch by epoch; all other attributes are that loader's.

    ``begin_next`` starts an epoch that is iterated later, with the same batches as if it started then:
    ``generator_state`` returns the state of the sampler's generator from which they are drawn, and batches of a data
    set that has changed since are discarded.

    Attributes:
        near_end: called when LAST_BATCHES of an epoch are left, at its start if it has fewer.
    """

    def __init__(self, loader: DataLoader) -> None:
        """Begin nothing yet."""
        self.loader = loader
        self._begun: Iterator | None = None
        self._state: torch.Tensor | None = None  # of the generator, before the epoch that was begun
        self._version = 0  # of the data set, then
        self.near_end: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # of a copy under construction
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        calling = max(len(self) - LAST_BATCHES, 0)
        for number, batch in enumerate(self._epoch()):
            if number == calling and self.near_end is not None:
                self.near_end()
            yield batch

    def _epoch(self) -> Iterator:
        begun, self._begun = self._begun, None
        if begun is not None and self._version == self._present_version():
            return begun
        if begun is not None and self._state is not None:
            self.set_generator_state(self._state)
        return iter(self.loader)

    def begin_next(self) -> None:
        """Let the workers begin the next epoch; without workers that outlive an epoch nothing happens.

        To be called when the present epoch has been iterated to its end.
        """
        if self._begun is None and self.loader.num_workers and self.loader.persistent_workers:
            self._state, self._version = self._present_state(), self._present_version()
            self._begun = iter(self.loader)

    def close(self) -> None:
        """End the worker processes of a loader that has ``close``."""
        self._begun = None
        getattr(self.loader, "close", lambda: None)()

    def generator_state(self) -> torch.Tensor | None:
        """State of the sampler's generator from which the next epoch is drawn; None if the order is not random."""
        return self._present_state() if self._begun is None else self._state

    def set_generator_state(self, state: torch.Tensor) -> None:
        """Draw the next epoch from ``state``."""
        generator = getattr(self.loader.sampler, "generator", None)
        if generator is not None:
            generator.set_state(state)

    def _present_state(self) -> torch.Tensor | None:
        generator = getattr(self.loader.sampler, "generator", None)
        return None if generator is None else generator.get_state()

    def _present_version(self) -> int:
        return getattr(self.loader.dataset, "version", 0)
