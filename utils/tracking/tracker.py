"""Records that every service must be able to take. Tags and steps are the same for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class RunLabel:
    """The names under which a service keeps a run.

    Attributes:
        project: of all runs of a folder.
        group: of the runs that belong together, such as the steps of a pipeline; '' for a run by itself.
        name: of the run.
        folder: of its files; a service that writes files of its own puts them there.
    """

    project: str
    group: str
    name: str
    folder: Path


class Tracker(ABC):
    """One run at one service. Making an object starts the run, or continues the run ``run_id``.

    Steps are epochs, from 0. Every method may raise whatever the service's package raises: see ``recording.Trackers``.

    Attributes:
        run_id: by which the service finds the run again; '' if it cannot.
    """

    run_id = ""

    @abstractmethod
    def config(self, values: Mapping[str, Any]) -> None:
        """Record options and hyperparameters, once for each run."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record figures by tag."""

    @abstractmethod
    def histogram(self, tag: str, values: NDArray, step: int) -> None:
        """Record the distribution of ``values`` (n,)."""

    @abstractmethod
    def image(self, tag: str, file: Path, step: int) -> None:
        """Record a picture, a PNG or JPEG file."""

    @abstractmethod
    def table(self, tag: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table."""

    @abstractmethod
    def artifact(self, file: Path) -> None:
        """Keep a copy of a file, such as a checkpoint."""

    def flush(self) -> None:  # noqa: B027 - most services send by themselves
        """Send what has been collected, at the end of an epoch."""

    @abstractmethod
    def finish(self, succeeded: bool) -> None:
        """End the run. Nothing can be recorded afterwards."""
