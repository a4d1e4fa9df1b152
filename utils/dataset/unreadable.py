"""Images that were readable when their data set was scanned but are not any more: removed, replaced or damaged."""

from __future__ import annotations

from utils.dataset.shared_memory import shared_memory
from utils.errors import InputError
from utils.log import LOGGER


class UnreadableError(InputError):
    """Images that cannot be read; ``reasons`` maps their indices to messages that name them."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(next(iter(reasons.values()), ""))
        self.reasons = reasons

    def __reduce__(self) -> tuple:
        """Rebuild it in another process."""
        return UnreadableError, (self.reasons,)


class LeftOut:
    """Record of the images of a data set that are left out as unreadable; loader processes share it."""

    def __init__(self, count: int) -> None:
        """Start with none of ``count`` images left out."""
        self._memory = shared_memory(count)
        self._reported: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return bool(self._memory.array[number])

    def add(self, number: int, reason: str, prefix: str = "") -> None:
        """Leave out image ``number``; the process that is first to do so logs it."""
        if number not in self:
            self._memory.array[number] = 1
            LOGGER.warning(f"{prefix}WARNING: left out from now on: {reason}")

    def fresh(self) -> list[int]:
        """Return the images that were left out since the last call."""
        numbers = [number for number in self._memory.array.nonzero()[0].tolist() if number not in self._reported]
        self._reported.update(numbers)
        return numbers

    def first_kept(self, number: int) -> int | None:
        """Return ``number``, or cyclically the next one that is not left out; None if all are."""
        flags = self._memory.array
        if not flags[number]:
            return number
        kept = (flags == 0).nonzero()[0]
        if not len(kept):
            return None
        return int(kept[kept.searchsorted(number) % len(kept)])
