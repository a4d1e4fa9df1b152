"""Recording a run at the services of ``--logger``: each failure is named once, and none ends the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.commands.options import to_dict
from utils.errors import InputError, one_line, short_repr
from utils.installation import import_own
from utils.log import LOGGER, colorstr
from utils.storage.files import WORK
from utils.tracking.services import SERVICES, check_services
from utils.tracking.tracker import RunLabel, Tracker

RUN_ID = re.compile(r"[\w-]{1,128}", re.ASCII)
DEFAULT_PROJECT = "YOLOv5"  # of the folders below runs/, as in v6.2


@dataclass(frozen=True)
class RunGroup:
    """Runs that belong together.

    Attributes:
        project: of all of them.
        name: of the group.
        started: services that have started a run of the group: one that then fails to start another is warned of.
    """

    project: str
    name: str
    started: set[str] = field(default_factory=set)


_group: ContextVar[RunGroup | None] = ContextVar("run_group", default=None)


@contextmanager
def grouped(folder: Path) -> Iterator[None]:
    """Put the runs that the block records into one group, that of ``folder``."""
    token = _group.set(RunGroup(project_of(folder.parent), folder.name))
    try:
        yield
    finally:
        _group.reset(token)


def project_of(folder: Path) -> str:
    """The project that the runs in ``folder`` belong to."""
    return DEFAULT_PROJECT if folder.resolve().parent == (WORK / "runs").resolve() else folder.resolve().name


def label_of(folder: Path) -> RunLabel:
    """The names of the run whose files are in ``folder``."""
    group = _group.get()
    if group is None:
        return RunLabel(project_of(folder.parent), "", folder.name, folder)
    return RunLabel(group.project, group.name, folder.name, folder)


def configuration(options: Any, hyp: Mapping[str, Any]) -> dict[str, Any]:
    """Options and hyperparameters as one flat mapping; lists as text, which all services take."""
    values = {**to_dict(options), **{f"hyp/{name}": value for name, value in hyp.items()}}
    return {name: str(value) if isinstance(value, list) else value for name, value in values.items()}


class Trackers:
    """The runs of one training at the services that were asked for.

    Attributes:
        run_ids: of the runs by service, also of those of earlier processes.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Name the services; nothing is opened yet. Raises InputError for one that cannot be used here."""
        check_services(names)
        self._names = tuple(names)
        self._open: dict[str, Tracker] = {}
        self.run_ids: dict[str, str] = {}

    def resume(self, run_ids: Any) -> None:
        """Continue these runs when they are started, by service, as ``run_ids`` had them.

        The record may be of anybody: it decides which run of the user's is continued, and never where that is.

        Raises:
            InputError: the record is damaged.
        """
        if not isinstance(run_ids, dict) or not all(
            name in SERVICES and isinstance(run_id, str) and RUN_ID.fullmatch(run_id)
            for name, run_id in run_ids.items()
        ):
            raise InputError(
                f"last.pt is damaged: its record of loggers is {short_repr(run_ids)}, expected run ids of "
                f"{', '.join(SERVICES)}; continue from an epoch<N>.pt or best.pt"
            )
        self.run_ids = dict(run_ids)
        for name in self.run_ids.keys() - set(self._names):
            LOGGER.warning(
                f"WARNING: so far {SERVICES[name].title} has recorded this run, and does not any more: add "
                f"--logger {name} to continue there"
            )

    def start(self, label: RunLabel, config: Mapping[str, Any]) -> None:
        """Start a run at each service, or continue that of ``run_ids``, and record ``config``.

        Raises:
            InputError: a service cannot start a run.
        """
        for name in self._names:
            tracker = self._started(name, label)
            if tracker is None:
                continue
            self._open[name] = tracker
            if tracker.run_id:
                self.run_ids[name] = tracker.run_id
        if self._open:
            LOGGER.info(colorstr("Loggers: ") + ", ".join(SERVICES[name].title for name in self._open))
        self.each(lambda tracker: tracker.config(config))

    def _started(self, name: str, label: RunLabel) -> Tracker | None:
        """A run at the service ``name``; None, after a warning, if it fails for a later run of a group."""
        group, service = _group.get(), SERVICES[name]
        try:
            make = getattr(import_own(f"utils.tracking.to_{name}"), service.tracker)
            tracker = make(label, self.run_ids.get(name, ""))
        except InputError:
            raise
        except Exception as error:  # each service raises its own errors
            failure = f"{service.title} cannot start a run ({one_line(error)})"
            if group is not None and name in group.started:
                LOGGER.warning(f"WARNING: {failure}: {label.name} is not recorded there")
                return None
            raise InputError(f"{failure}: {service.start}, or leave out --logger {name}") from error
        if group is not None:
            group.started.add(name)
        return tracker

    def each(self, record: Callable[[Tracker], None]) -> None:
        """Call ``record`` with each run; a service that fails is warned of, and gets nothing more of this run."""
        for name, tracker in list(self._open.items()):
            try:
                record(tracker)
            except Exception as error:  # noqa: BLE001 - each service raises its own errors
                del self._open[name]
                LOGGER.warning(
                    f"WARNING: {SERVICES[name].title} has failed ({one_line(error)}): "
                    "nothing more of this run is recorded there"
                )

    def finish(self, succeeded: bool) -> None:
        """End the runs; nothing can be recorded afterwards."""
        self.each(lambda tracker: tracker.finish(succeeded))
        self._open.clear()


@contextmanager
def recorded(names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> Iterator[Trackers]:
    """Record what the block does, with its files in ``folder``, as a run that succeeds if the block does."""
    trackers, succeeded = Trackers(names), False
    try:
        trackers.start(label_of(folder), config)
        yield trackers
        succeeded = True
    finally:
        trackers.finish(succeeded)
