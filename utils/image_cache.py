"""Resized images kept in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from utils.log import LOGGER

MEMORY_SHARE = 0.8  # part of the available memory that images may take
GIGABYTE = 1e9


def cache_images_in_memory(
    read: Callable[[int], tuple[np.ndarray, tuple[int, int]]], shapes: np.ndarray, longer_side: int, prefix: str = ""
) -> list[np.ndarray | None]:
    """Read all images resized, if they fit in memory; otherwise warn and return None for each.

    Args:
        read: image number -> resized image (h, w, 3), and something else. shapes: (N, 2) sizes of the files in pixels.
        longer_side: to which images are resized.
    """
    from tqdm import tqdm

    needed = float((3 * shapes.prod(1) * (longer_side / shapes.max(1)) ** 2).sum())
    available = available_memory()
    if available is not None and needed > MEMORY_SHARE * available:
        LOGGER.warning(
            f"{prefix}WARNING: not caching images: they need {needed / GIGABYTE:.1f} GB of memory, "
            f"{available / GIGABYTE:.1f} GB are available"
        )
        return [None] * len(shapes)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        progress = tqdm(
            pool.map(read, range(len(shapes))),
            total=len(shapes),
            desc=f"{prefix}Caching images",
            disable=None,
            leave=False,
        )
        images: list[np.ndarray | None] = [image for image, _ in progress]
    LOGGER.info(f"{prefix}Caching images ({needed / GIGABYTE:.2f} GB in memory)")
    return images


def available_memory() -> int | None:
    """Bytes that can still be used, as the system says; None where that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return int(kilobytes) * 1024 if kilobytes else None
