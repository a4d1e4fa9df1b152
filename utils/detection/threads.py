"""Work before and after a loop, done by threads while the loop computes: reading ahead, writing behind."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
END = object()


class ReadAhead(Generic[Item]):
    """Iterates over ``items`` in a thread, at most ``ahead`` of them in advance; an error in there is raised here.

    Leave the ``with`` block to stop it: no item is being made any more then.
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
        """The items in their order."""
        while (item := self._queue.get()) is not END:
            yield item
        if self._error is not None:
            raise self._error

    def __enter__(self) -> ReadAhead[Item]:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop after the item that is being made."""
        self._stopped = True
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)  # makes room for an item that waits
            except queue.Empty:
                continue


class WriteBehind:
    """Calls ``action`` in a thread, in the order of the calls, at most ``behind`` of them late.

    An error in there is raised by the next call, or on leaving the ``with`` block, which waits for all calls, also when
    it is left by an error: what was found until then is written. After an error nothing more is called.
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
        """Have ``action`` called with these."""
        if self._error is not None:
            raise self._error
        self._queue.put(arguments)

    def __enter__(self) -> WriteBehind:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for all calls."""
        self._queue.put(END)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error
