"""Threads that work for a loop while it computes: one reads ahead, one writes behind."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
END = object()


class ReadAhead(Generic[Item]):
    """Iterates over ``items`` in a thread, up to ``ahead`` of them in advance, and raises that thread's errors here.

    Leaving the ``with`` block stops the thread; it has finished by then.
    """

    def __init__(self, items: Iterable[Item], ahead: int) -> None:
        """Start at once."""
        self._queue: queue.Queue[Any] = queue.Queue(ahead)
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, args=(items,), daemon=True)
        self._thread.start()

    def _read(self, items: Iterable[Item]) -> None:
        try:
            for item in items:
                self._queue.put(item)
                if self._stopped:
                    return
        except BaseException as error:  # noqa: BLE001 - the loop raises it
            self._error = error
        self._queue.put(END)

    def __iter__(self) -> Iterator[Item]:
        """Yield the items in their order."""
        while (item := self._queue.get()) is not END:
            yield item
        if self._error is not None:
            raise self._error

    def __enter__(self) -> ReadAhead[Item]:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop after the item that is being read."""
        self._stopped = True
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)  # makes room for an item that is waiting
            except queue.Empty:
                continue


class WriteBehind:
    """Calls ``action`` in a thread, in the order of the calls, up to ``behind`` of them late.

    An error of the thread is raised by the next call, or on leaving the ``with`` block; after it nothing more is
    called. Leaving the block waits for all calls, even if an error leaves it: what was detected so far is written.
    """

    def __init__(self, action: Callable[..., object], behind: int) -> None:
        """Start at once."""
        self._queue: queue.Queue[Any] = queue.Queue(behind)
        self._action = action
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        while (arguments := self._queue.get()) is not END:
            if self._error is None:
                try:
                    self._action(*arguments)
                except BaseException as error:  # noqa: BLE001 - the caller raises it
                    self._error = error

    def __call__(self, *arguments: object) -> None:
        """Have ``action`` called with these arguments."""
        if self._error is not None:
            raise self._error
        self._queue.put(arguments)

    def __enter__(self) -> WriteBehind:
        """Return itself."""
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Wait for all calls."""
        self._queue.put(END)
        self._thread.join()
        if self._error is not None and error_type is None:
            raise self._error
