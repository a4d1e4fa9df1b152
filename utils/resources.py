"""Processor cores and memory that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")  # where Linux states the limits of a container
CONTROL_GROUP_FILES = (  # limit, usage, and the entry of memory.stat for cached files that can be dropped
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),  # version 1
)


def usable_cores() -> int:
    """Return the number of processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes of memory still available, according to the system and its control group; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    known = [int(kilobytes) * 1024] if kilobytes else []
    known += [left for left in [_left_in_control_group()] if left is not None]
    return min(known, default=None)


def _left_in_control_group() -> int | None:
    """Bytes that this container may still allocate; None without a limit. Cached files do not count as used."""
    for limit, used, inactive in CONTROL_GROUP_FILES:
        try:
            left = int((CONTROL_GROUP / limit).read_text()) - int((CONTROL_GROUP / used).read_text())
            statistics = (CONTROL_GROUP / used).with_name("memory.stat").read_text().splitlines()
            return left + int(dict(line.split() for line in statistics)[inactive])
        except (OSError, ValueError, KeyError):  # control groups of the other version, or the limit is 'max'
            continue
    return None
