"""Images that were in order when their data set was scanned and cannot be read now: gone, replaced, or badly made."""

from __future__ import annotations

from utils.dataset.shared_memory import shared_memory
from utils.errors import InputError
from utils.log import LOGGER


class UnreadableError(InputError):
    """Images that cannot be read: ``reasons`` maps their numbers to messages that name them."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(next(iter(reasons.values()), ""))
        self.reasons = reasons

    def __reduce__(self) -> tuple:
        """Rebuild it in another process."""
        return UnreadableError, (self.reasons,)


class LeftOut:
    """The images of a data set that are left out, as they could not be read; loader processes share the record."""

    def __init__(self, count: int) -> None:
        """``count`` images, of which none is left out."""
        self._memory = shared_memory(count)
        self._told: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return bool(self._memory.array[number])

    def add(self, number: int, reason: str, prefix: str = "") -> None:
        """Leave image ``number`` out, and say so the first time that any process does."""
        if number not in self:
            self._memory.array[number] = 1
            LOGGER.warning(f"{prefix}WARNING: left out from now on: {reason}")

    def fresh(self) -> list[int]:
        """Those that have come since the last call."""
        numbers = [number for number in self._memory.array.nonzero()[0].tolist() if number not in self._told]
        self._told.update(numbers)
        return numbers

    def first_kept(self, number: int) -> int | None:
        """``number``, or the next one, cyclically, that is not left out; None if all are."""
        flags = self._memory.array
        if not flags[number]:
            return number
        kept = (flags == 0).nonzero()[0]
        if not len(kept):
            return None
        return int(kept[kept.searchsorted(number) % len(kept)])
