"""Images kept ready: resized in memory, or decoded on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from utils.distributed import current_world
from utils.errors import InputError
from utils.files import atomic_path
from utils.images import read_image
from utils.log import LOGGER

SHARE = 0.8  # part of the free memory or disk space that images may take
GIGABYTE = 1e9
CONTROL_GROUP = Path("/sys/fs/cgroup")  # where Linux says what a container may use


def cache_images_in_memory(
    read: Callable[[int], tuple[np.ndarray, tuple[int, int]]], shapes: np.ndarray, longer_side: int, prefix: str = ""
) -> list[np.ndarray | None]:
    """Read all images resized.

    Args:
        read: image number -> resized image (h, w, 3), and something else. shapes: (N, 2) sizes of the files in pixels.
        longer_side: to which images are resized.

    Raises:
        InputError: they do not fit in the memory that is free, each process of data-parallel training needing its own.
    """
    world = current_world()
    copies = world.local_size if world.local_rank <= 0 else world.local_size - 1  # the first rank has its own by then
    needed = float((3 * shapes.prod(1) * (longer_side / shapes.max(1)) ** 2).sum())
    available = available_memory()
    if available is not None and needed * copies > SHARE * available:
        raise InputError(
            f"{prefix}the images do not fit in memory: they need {needed * copies / GIGABYTE:.1f} GB, of the "
            f"{available / GIGABYTE:.1f} GB that are free {SHARE:.0%} may be used: choose --cache disk, or no cache"
        )
    images: list[np.ndarray | None] = [image for image, _ in _in_threads(read, range(len(shapes)), prefix)]
    LOGGER.info(f"{prefix}Caching images ({needed / GIGABYTE:.2f} GB in memory)")
    return images


def cache_images_on_disk(files: Sequence[str], shapes: np.ndarray, prefix: str = "") -> list[Path]:
    """Decode all images into ``.npy`` files beside them, those that are there and newer than the image excepted.

    Args:
        files: the images. shapes: (N, 2) their sizes in pixels, as in the label cache.

    Returns:
        The file of each image, with its pixels in full size, (h, w, 3) BGR.

    Raises:
        InputError: too little space is free, or the folder cannot be written to.
    """
    places = [Path(file).with_suffix(".npy") for file in files]
    wanted = [number for number, file in enumerate(files) if not is_fresh(places[number], file)]
    needed = float(3 * shapes[wanted].prod(1).sum())
    if wanted:
        free = shutil.disk_usage(places[wanted[0]].parent).free
        if needed > SHARE * free:
            raise InputError(
                f"{prefix}the images do not fit on the disk: decoded they need {needed / GIGABYTE:.1f} GB, of the "
                f"{free / GIGABYTE:.1f} GB that are free {SHARE:.0%} may be used: leave out --cache disk"
            )

    def decode(number: int) -> None:
        try:
            with atomic_path(places[number]) as draft:
                np.save(draft, read_image(files[number]))
        except OSError as error:
            raise InputError(f"cannot write {places[number]} ({error.strerror}): leave out --cache disk") from error

    for _ in _in_threads(decode, wanted, prefix):
        pass
    LOGGER.info(f"{prefix}Caching images ({needed / GIGABYTE:.2f} GB written to disk, {len(wanted)} of {len(files)})")
    return places


def is_fresh(place: Path, file: str) -> bool:
    """Whether the decoded image ``place`` exists and is not older than the image ``file``."""
    return place.is_file() and place.stat().st_mtime_ns >= os.stat(file).st_mtime_ns


def _in_threads(work: Callable, numbers: Sequence[int], prefix: str) -> Iterable:
    from tqdm import tqdm

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        description = f"{prefix}Caching images"
        yield from tqdm(pool.map(work, numbers), total=len(numbers), desc=description, disable=None, leave=False)


def available_memory() -> int | None:
    """Bytes that can still be used, as the system and its control group say; None where that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    known = [int(kilobytes) * 1024] if kilobytes else []
    known += [left for left in [_left_in_control_group()] if left is not None]
    return min(known, default=None)


def _left_in_control_group() -> int | None:
    """Bytes that this container may still take; None when it has no limit. Cached files do not count as taken."""
    try:
        limit, taken = ((CONTROL_GROUP / name).read_text() for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        return int(limit) - int(taken) + int(statistics["inactive_file"])
    except (OSError, ValueError, KeyError):  # no control groups of version 2, or the limit is 'max'
        return None
