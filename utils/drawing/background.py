"""Pictures drawn by other processes while this one computes: diagrams take longer than validating a small data set.

Threads would not do: matplotlib holds Python's lock most of the time, and a crash in a drawing library would end the
run. Nor does multiprocessing: its processes import the caller's main module, so that every script would need a guard.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

from utils.installation import IMPORT_FOLDER
from utils.log import LOGGER
from utils.resources import usable_cores
from utils.storage.drafts import remove_abandoned

PROCESSES = 2
READY = b"ready\n"  # the first bytes that a process sends
START = f"import sys; sys.path.insert(0, sys.argv[1]); from {__package__}.worker import serve; serve(sys.argv[2])"

_ahead: list[DrawingProcess] = []  # processes of start_ahead that no BackgroundDrawing has taken yet

Picture = Callable[[], object]  # a functools.partial of a function of a module
Draw = Callable[[Path, Picture], None]


def at_once(file: Path, picture: Picture) -> None:
    """Draw here and now; errors are the caller's."""
    picture()


def attempt(picture: Picture) -> str:
    """Draw; returns what went wrong, '' if nothing did."""
    try:
        picture()
    except Exception as error:  # noqa: BLE001 - no error of a picture may cost the results
        return f"{type(error).__name__}: {error}"
    return ""


def start_ahead() -> None:
    """Start the processes of the next BackgroundDrawing now, if there is a core for them.

    Loading matplotlib keeps a core busy for half a second; meanwhile a command can load its own libraries.
    """
    if usable_cores() > 1:
        with suppress(OSError, ValueError):  # tried again, and logged, when there is something to draw
            for _ in range(PROCESSES):
                _ahead.append(DrawingProcess())


class DrawingProcess:
    """Another process that draws the pictures it is sent, one by one. It speaks pickle over its pipes."""

    def __init__(self, charts: bool = True) -> None:
        """Start it; with ``charts`` it loads matplotlib before the first picture. Raises OSError, ValueError."""
        command = [sys.executable, "-c", START, str(IMPORT_FOLDER), "charts" if charts else ""]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._pictures: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._is_ready = False

    def draw(self, pickled: bytes) -> str:
        """Have a picture drawn; returns what went wrong, '' if nothing did. Raises Lost if that is unknown."""
        if not self._is_ready and self._answers.read(len(READY)) != READY:
            raise Lost(f"another one ended at its start (exit code {self.end()})")
        self._is_ready = True
        try:
            self._pictures.write(pickled)
            self._pictures.flush()
            answer = pickle.load(self._answers)
        except (OSError, EOFError):
            return f"the process that draws it has ended (exit code {self.end()})"
        except Exception as error:  # what is not a pickle, or truncated, may raise anything
            raise Lost(f"the other one's answer is garbage ({type(error).__name__}: {error})") from error
        if not isinstance(answer, str):
            raise Lost(f"the other one's answer is garbage (a {type(answer).__name__})")
        return answer

    def end(self) -> int:
        """End the process, whatever it is doing; returns its exit code."""
        self._process.kill()
        return self._process.wait()

    def close(self) -> None:
        """Close the pipes of a process that has been ended."""
        self._process.communicate()

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process; None while it runs."""
        return self._process.poll()


class BackgroundDrawing:
    """Call it with a file and a function that draws it; ``finish`` waits for all, and logs those that failed.

        with BackgroundDrawing() as draw:
            draw(path, functools.partial(plot_images, images, targets, fname=path))
            ...
            draw.finish()

    A process starts with the first picture that finds the others busy, or earlier by ``start_ahead``. Leaving the block
    ends them. If a process cannot be started, or its answer is garbage, ``finish`` draws the picture in this one. A
    picture whose process has ended is not tried again: it might end this one, too.

    Attributes:
        processes: maximum number; with 0, the default if there is only one core, this process draws.
    """

    def __init__(self, processes: int | None = None, charts: bool = True) -> None:
        """Start nothing yet; ``charts`` says that there will be diagrams, which need matplotlib."""
        self.processes = (PROCESSES if usable_cores() > 1 else 0) if processes is None else processes
        self._charts = charts
        self._threads = ThreadPoolExecutor(max(self.processes, 1))  # each serves one process
        self._own = threading.local()  # .process: that of the thread
        self._started: list[DrawingProcess] = []
        self._pictures: list[tuple[Path, Picture, Future[str] | str]] = []

    def __enter__(self) -> BackgroundDrawing:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they are drawing."""
        while _ahead:
            self._started.append(_ahead.pop())
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._started:
            process.end()
        self._threads.shutdown()
        for process in self._started:
            process.close()
        for folder in {file.parent for file, *_ in self._pictures}:
            remove_abandoned(folder)  # drafts of pictures that were being drawn

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
        """Have a picture drawn by the process of this thread; returns what went wrong. Raises Lost if unknown."""
        try:
            pickled = pickle.dumps(picture)
        except Exception as error:  # objects may raise anything here
            raise Lost(f"it cannot be sent to another one ({type(error).__name__}: {error})") from error
        process = self._process()
        try:
            return process.draw(pickled)
        except Lost:
            process.end()
            raise
        finally:
            if process.exit_code is not None:
                self._own.process = None  # the next picture gets a new one

    def _process(self) -> DrawingProcess:
        """Return the process of this thread. Raises Lost if it cannot be started."""
        process: DrawingProcess | None = getattr(self._own, "process", None)
        if process is None:
            with suppress(IndexError):
                process = _ahead.pop()
        if process is None:
            try:
                process = DrawingProcess(self._charts)
            except (OSError, ValueError) as error:
                raise Lost(f"another one could not be started ({error})") from error
        if process not in self._started:
            self._started.append(process)
        self._own.process = process
        return process


class Lost(Exception):
    """It is unknown whether another process has drawn a picture."""
