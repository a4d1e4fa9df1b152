"""Memory settings of the C library: freed blocks are kept for the next batch instead of returned to the system.

A batch that allocates tens of megabytes otherwise spends a tenth of its time on pages that the system has to clear.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

TRIM_THRESHOLD, MAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
LARGEST = 2**31 - 1  # bytes; mallopt takes an int
LARGEST_BLOCK = 2**30  # bytes; larger blocks are still returned at once
USERS_CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # environment variables


def keep_freed_memory() -> bool:
    """Keep freed memory, up to the peak of this process; return True if that was set.

    Nothing changes if the user has set an environment variable for it, or if the C library is not glibc.
    """
    if any(name in os.environ for name in USERS_CHOICES):
        return False
    return set_thresholds(LARGEST_BLOCK, LARGEST)


def set_thresholds(block: int, trim: int) -> bool:
    """Return freed blocks over ``block`` bytes to the system at once, others when more than ``trim`` bytes are free."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        change = ctypes.CDLL(None).mallopt
        return bool(change(MAP_THRESHOLD, block) and change(TRIM_THRESHOLD, trim))
    return False
