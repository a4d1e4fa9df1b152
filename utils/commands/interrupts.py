"""Ctrl-C, SIGTERM and SIGHUP: obeyed between two batches and wherever the process waits, always within seconds.

A command installs a handler (``install``). It notes the signal and raises ``Interrupted``, except inside ``deferred``
blocks and the bodies of ``obeying`` loops: there it only notes the signal, and the loop raises before its next item. If
some code swallows the error or never returns, a thread ends the process ten seconds after the signal, or at a second
one. Files saved by then are complete, as they are written under other names and renamed.
"""

from __future__ import annotations

import atexit
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from utils.storage.drafts import remove_own
from utils.storage.folder_lock import release_all

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # those that this system has are handled
PATIENCE_SECONDS = 10.0  # before a process that has not ended by itself is killed
RANK_PATIENCE_SECONDS = 3.0  # for one of several processes: it may be waiting for others that have ended
SAME_REQUEST_SECONDS = 1.0  # signals that come together are one request: closing a terminal sends several
CHILD_SECONDS = 5.0  # before a child that was asked to end is killed
SAVED = "files saved before this moment are complete"

Item = TypeVar("Item")
Advice = Callable[[], str]

_requested = 0  # number of the signal that asked this process to end
_deferrals = 0  # open blocks of the main thread that must not be interrupted
_reported = False
_advice: list[Advice] = []
_children: set[subprocess.Popen] = set()


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end."""


def requested() -> int:
    """Number of the signal that asked this process to end, 0 if none did."""
    return _requested


def obey() -> None:
    """Raise Interrupted if a signal has asked this process to end."""
    if _requested:
        raise Interrupted(f"signal {_requested}")


@contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait until the block has ended; ``obey`` then raises. Other threads are never interrupted."""
    global _deferrals
    counts = threading.current_thread() is threading.main_thread()
    _deferrals += counts
    try:
        yield
    finally:
        _deferrals -= counts


def obeying(items: Iterable[Item]) -> Iterator[Item]:
    """Yield ``items``. A signal in the body of the loop is obeyed before the next item, one between items at once."""
    iterator = iter(items)
    while True:
        obey()
        try:
            item = next(iterator)
        except StopIteration:
            return
        with deferred():
            yield item


@contextmanager
def advising(advice: Advice) -> Iterator[None]:
    """Attach to an error of the block how its work is continued; of nested blocks the outermost counts.

    ``advice`` returns the words, or '' if there is nothing to continue.
    """
    _advice.append(advice)
    try:
        yield
    except BaseException as error:
        with suppress(Exception):
            error.advice = advice()  # type: ignore[attr-defined]
        raise
    finally:
        _advice.pop()


def run_child(command: Sequence[str], **keywords: Any) -> int:
    """Run a command in a new session and return its exit code; a signal to this process ends it, too."""
    process = subprocess.Popen(command, start_new_session=True, **keywords)
    _children.add(process)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(CHILD_SECONDS)
        _kill(process)
        raise
    finally:
        _children.discard(process)


# -- in commands ---------------------------------------------------------------------------------------------------


def install() -> None:
    """Handle the signals in this process, if this is its main thread; ignored ones (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    ordinary = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    handled = {number for number in numbers if signal.getsignal(number) in ordinary}
    if not handled:
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    threading.Thread(target=_watch, args=(receiver, sender, handled), name="signals", daemon=True).start()
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    for number in handled:
        signal.signal(number, _note)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _be_a_child(handled))


def tell(number: int, advice: str = "") -> None:
    """Report once, on the first rank, that signal ``number`` has ended the work."""
    global _reported
    if _reported or os.environ.get("RANK", "0") != "0":
        return
    _reported = True
    words = f"interrupted ({signal.Signals(number).name}): {SAVED}" + (f"; {advice}" if advice else "")
    with suppress(OSError):
        os.write(2, f"{words}\n".encode("utf-8", "replace"))


def clean_up() -> None:
    """Remove the drafts and locks of this process, which is about to end."""
    remove_own()
    release_all()


def leave(code: int) -> None:
    """End this process without finalising the interpreter, which takes seconds that nothing watches over any more.

    Registered exit functions, which end child processes, are still called.
    """
    with suppress(Exception):
        atexit._run_exitfuncs()
    os._exit(code)


def same_command() -> str:
    """Advice for commands that continue when they are called again."""
    return "run the same command again to continue"


def resume_flag(checkpoint: Path, augment: str = "") -> str:
    """Advice for a training with this --augment: how to resume it, '' while it has not saved anything."""
    again = f" --augment {shlex.quote(augment)}" if augment else ""  # the record alone must not run code
    return f"continue with --resume {shlex.quote(str(checkpoint))}{again}" if checkpoint.is_file() else ""


def _note(number: int, _: object) -> None:
    global _requested
    if not _requested:
        _requested = number
        if not _deferrals:
            raise Interrupted(f"signal {number}")


def _be_a_child(handled: set[int]) -> None:
    """Reset a forked process: its parent ends it, and handles the Ctrl-C that the terminal sends to both."""
    global _requested, _deferrals
    _requested = _deferrals = 0
    with suppress(ValueError, OSError):
        signal.set_wakeup_fd(-1)
        for number in handled:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


def _watch(receiver: socket.socket, _sender: socket.socket, handled: set[int]) -> None:
    """End the process if it has not ended by itself; ``_sender`` is kept open."""
    number = 0
    while not number:
        number = next((byte for byte in receiver.recv(64) if byte in handled), 0)
    started = time.monotonic()
    patience = RANK_PATIENCE_SECONDS if "LOCAL_RANK" in os.environ else PATIENCE_SECONDS
    while (left := started + patience - time.monotonic()) > 0:
        receiver.settimeout(left)
        with suppress(TimeoutError):
            again = any(byte in handled for byte in receiver.recv(64))
            if again and time.monotonic() > started + SAME_REQUEST_SECONDS:
                break
    _end_now(number)


def _end_now(number: int) -> None:
    import multiprocessing

    words = ""
    with suppress(Exception):
        words = next(filter(None, (advice() for advice in _advice)), "")
    tell(number, words)
    with suppress(Exception):
        for process in list(_children):
            _kill(process)
        for worker in multiprocessing.active_children():
            worker.terminate()
    with suppress(Exception):
        clean_up()
    os._exit(128 + number)


def _kill(process: subprocess.Popen) -> None:
    """Kill a child and the processes that it has started."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # its session's group, which may outlive it
        elif process.poll() is None:
            process.kill()


def end_output() -> None:
    """Flush the output; if its reader is gone (``| head``), discard it silently."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
