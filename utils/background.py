"""Pictures drawn by other processes while this one computes: diagrams take longer than validating a small data set."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from utils.charts import new_figure
from utils.files import ROOT
from utils.log import LOGGER

PROCESSES = 2
START = "import sys; sys.path.insert(0, sys.argv[1]); from utils.background import serve; serve()"

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


class BackgroundDrawing:
    """Call it with a file and what draws it; ``finish`` waits for all, and names in warnings those that failed.

        with BackgroundDrawing() as draw:
            draw(path, functools.partial(plot_images, images, targets, fname=path))
            ...
            draw.finish()

    Each process starts with the first picture that finds the others busy. They know nothing of the caller's main
    module, unlike those of multiprocessing, so that scripts need no guard. On leaving the block they are ended.

    Attributes:
        processes: how many at most; with 0, the default where there is one core only, this process draws.
    """

    def __init__(self, processes: int | None = None) -> None:
        """Start nothing yet."""
        self.processes = (PROCESSES if usable_cores() > 1 else 0) if processes is None else processes
        self._threads = ThreadPoolExecutor(max(self.processes, 1), initializer=self._start)  # each minds a process
        self._own = threading.local()
        self._started: list[subprocess.Popen] = []
        self._pictures: list[tuple[Path, Future[str] | str]] = []

    def __enter__(self) -> BackgroundDrawing:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they are drawing."""
        for process in self._started:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._started:
            process.communicate()

    def __call__(self, file: Path, picture: Picture) -> None:
        """Have ``file`` drawn."""
        self._pictures.append((file, self._threads.submit(self._send, picture) if self.processes else attempt(picture)))

    def finish(self) -> None:
        """Wait until everything is drawn."""
        for file, outcome in self._pictures:
            problem = outcome if isinstance(outcome, str) else outcome.result()
            if problem:
                LOGGER.warning(f"{file} could not be drawn: {problem}")
        self._pictures.clear()

    def _start(self) -> None:
        command = [sys.executable, "-c", START, str(ROOT)]
        self._own.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._started.append(self._own.process)

    def _send(self, picture: Picture) -> str:
        process = self._own.process
        try:
            process.stdin.write(pickle.dumps(picture))
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (OSError, EOFError):
            return f"the process that draws it has ended (exit code {process.wait()})"


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve() -> None:
    """What the other process does: draw what comes in, answer with what went wrong, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    new_figure(1, 1)  # loads matplotlib while there is nothing to draw yet
    while True:
        try:
            picture = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answers.write(pickle.dumps(attempt(picture)))
        answers.flush()
