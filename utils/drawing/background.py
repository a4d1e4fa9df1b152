"""Pictures drawn by other processes while this one computes: diagrams take longer than validating a small data set."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from utils.log import LOGGER
from utils.resources import usable_cores
from utils.storage.drafts import remove_abandoned
from utils.storage.files import ROOT

PROCESSES = 2
READY = b"ready\n"  # what a process says first
START = "import sys; sys.path.insert(0, sys.argv[1]); from utils.drawing.worker import serve; serve()"

_ahead: list[subprocess.Popen] = []  # processes of start_ahead that no BackgroundDrawing has taken

Picture = Callable[[], object]  # a functools.partial of a function of a module
Draw = Callable[[Path, Picture], None]


def at_once(file: Path, picture: Picture) -> None:
    """Draw here and now; errors are the caller's."""
    picture()


def attempt(picture: Picture) -> str:
    """Draw; returns what went wrong, '' if nothing did."""
    try:
        picture()
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the results
        return f"{type(error).__name__}: {error}"
    return ""


def start_ahead() -> None:
    """Start the processes of the next BackgroundDrawing already, where there is a core for them.

    Loading matplotlib keeps a core busy for half a second; a command that has much to load itself can do both at once.
    """
    if usable_cores() > 1:
        with suppress(OSError, ValueError):  # tried again, and told, when there is something to draw
            _ahead.extend(_start_process() for _ in range(PROCESSES))


def _start_process() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", START, str(ROOT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


class BackgroundDrawing:
    """Call it with a file and what draws it; ``finish`` waits for all, and names in warnings those that failed.

        with BackgroundDrawing() as draw:
            draw(path, functools.partial(plot_images, images, targets, fname=path))
            ...
            draw.finish()

    Each process starts with the first picture that finds the others busy, or by ``start_ahead``. They know nothing of
    the caller's main module, unlike those of multiprocessing, so that scripts need no guard. On leaving the block they
    are ended. Where a process cannot be started, or what it is sent or answers is garbage, ``finish`` draws in this
    one. What ends the process that draws it is not tried again: it would end this one.

    Attributes:
        processes: how many at most; with 0, the default where there is one core only, this process draws.
    """

    def __init__(self, processes: int | None = None) -> None:
        """Start nothing yet."""
        self.processes = (PROCESSES if usable_cores() > 1 else 0) if processes is None else processes
        self._threads = ThreadPoolExecutor(max(self.processes, 1))  # each minds a process
        self._own = threading.local()
        self._started: list[subprocess.Popen] = []
        self._pictures: list[tuple[Path, Picture, Future[str] | str]] = []

    def __enter__(self) -> BackgroundDrawing:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they are drawing."""
        while spare := self._take_one_ahead():
            self._started.append(spare)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._started:
            process.kill()
        self._threads.shutdown()
        for process in self._started:
            process.communicate()
        for folder in {file.parent for file, *_ in self._pictures}:
            remove_abandoned(folder)  # what they were drawing

    def __call__(self, file: Path, picture: Picture) -> None:
        """Have ``file`` drawn."""
        outcome = self._threads.submit(self._send, picture) if self.processes else attempt(picture)
        self._pictures.append((file, picture, outcome))

    def finish(self) -> None:
        """Wait until everything is drawn."""
        for file, picture, outcome in self._pictures:
            try:
                problem = outcome if isinstance(outcome, str) else outcome.result()
            except Lost as reason:
                LOGGER.warning(f"{file} is drawn by this process, which takes longer: {reason}")
                problem = attempt(picture)
            if problem:
                LOGGER.warning(f"{file} could not be drawn: {problem}")
        self._pictures.clear()

    def _send(self, picture: Picture) -> str:
        try:
            parcel = pickle.dumps(picture)
        except Exception as error:  # objects may raise anything here
            raise Lost(f"it cannot be sent to another one ({type(error).__name__}: {error})") from error
        process = self._process()
        try:
            process.stdin.write(parcel)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
            if isinstance(answer, str):
                return answer
            problem = f"a {type(answer).__name__}"
        except (OSError, EOFError):
            return f"the process that draws it has ended (exit code {self._forget(process)})"
        except Exception as error:  # noqa: BLE001 - what is no pickle, or cut off, makes it raise anything
            problem = f"{type(error).__name__}: {error}"
        self._forget(process)
        raise Lost(f"what the other one answered is garbage ({problem})")

    def _process(self) -> Any:
        """The process of this thread, ready to draw; raises Lost if it cannot be started."""
        process: Any = getattr(self._own, "process", None)
        if process is not None:
            return process
        try:
            process = self._take_one_ahead() or _start_process()
        except (OSError, ValueError) as error:
            raise Lost(f"another one could not be started ({error})") from error
        self._started.append(process)
        self._own.process = process
        if process.stdout.read(len(READY)) != READY:
            raise Lost(f"another one ended at its start (exit code {self._forget(process)})")
        return process

    def _take_one_ahead(self) -> subprocess.Popen | None:
        with suppress(IndexError):
            return _ahead.pop()
        return None

    def _forget(self, process: Any) -> int:
        """End a process that gives no good answers, so that the next picture gets a new one; its exit code."""
        self._own.process = None
        process.kill()
        return process.wait()


class Lost(Exception):
    """A picture of which nobody knows whether another process has drawn it."""
