"""The C library's memory: blocks that are freed are kept for the next batch instead of given back to the system.

Where each batch asks for tens of megabytes anew, a tenth of its time goes into pages that the system has to clear.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

TRIM_THRESHOLD, MAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
LARGEST = 2**31 - 1  # bytes; mallopt takes an int
LARGEST_BLOCK = 2**30  # bytes; larger ones still go back at once
USERS_CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # environment variables


def keep_freed_memory() -> bool:
    """Keep what is freed, up to the peak of this process; says whether that is so.

    Nothing changes where the user has settings of their own, and where the C library is not glibc.
    """
    if any(name in os.environ for name in USERS_CHOICES):
        return False
    return set_thresholds(LARGEST_BLOCK, LARGEST)


def set_thresholds(block: int, trim: int) -> bool:
    """Give freed memory back at once in blocks over ``block`` bytes, otherwise when over ``trim`` bytes lie free."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        change = ctypes.CDLL(None).mallopt
        return bool(change(MAP_THRESHOLD, block) and change(TRIM_THRESHOLD, trim))
    return False
