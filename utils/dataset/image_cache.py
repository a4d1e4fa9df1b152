"""Resized images kept ready for loading: in memory that all loader processes share, or in one file on disk.

Reading and decoding take most of the time of a training image. With the images in memory, training data at 320 pixels
load at 897 images/s, without at 336 (docs/BENCHMARKS.md, "Loading"). Shared by all loader processes, they cost their
size once (0.25 GB in the training of docs/BENCHMARKS.md), and neither fork nor spawn copies them.

The file consists of a head (mark, and digest of everything that determines the content), the pixels of each image, and
a checksum of each image: a damaged file is noticed before the first epoch, not as a worse result.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.dataset.shared_memory import SharedBytes, StoredFile, shared_memory
from utils.dataset.unreadable import UnreadableError
from utils.distributed import current_world
from utils.errors import InputError, is_of_one_file
from utils.log import LOGGER
from utils.resources import available_memory
from utils.storage.files import atomic_path

CACHES = ("auto", "ram", "disk", "none")
SHARE = 0.8  # of the free memory or disk space, that images may take if the user asked for a cache
COMFORTABLE_SHARE = 0.5  # of the free memory, that they may take by default
GIGABYTE = 1e9
FILE_MARK = b"yolov5 resized images, format 2\n"
CHECKSUM = np.dtype("<u4")  # CRC-32 of an image's pixels

Read = Callable[[int], np.ndarray]  # image index -> (h, w, 3) uint8


class ImageStore:
    """Images of known sizes, one after the other in memory that all processes share, or in a file.

    ``store[i]`` is (h, w, 3) uint8, read-only; it raises InputError if the file has changed.
    """

    def __init__(self, memory: SharedBytes | StoredFile, sizes: np.ndarray) -> None:
        """``sizes`` (N, 2) are width and height of the images in ``memory``."""
        self._memory, self._sizes, self._ends = memory, sizes, ends_of(sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> np.ndarray:
        width, height = self._sizes[index]
        end = self._ends[index]
        start = end - 3 * width * height
        memory = self._memory
        part = memory.read(start, end) if isinstance(memory, StoredFile) else memory.array[start:end]
        view = part.reshape(height, width, 3)
        view.flags.writeable = False
        return view


def ends_of(sizes: np.ndarray) -> np.ndarray:
    """End of each image of these sizes (N, 2), in bytes from the start of the first -> (N,)."""
    return np.cumsum(3 * sizes.prod(1, dtype=np.int64))


# -- in memory -----------------------------------------------------------------------------------------------------


def cache_in_memory(read: Read, sizes: np.ndarray, prefix: str = "", required: bool = True) -> ImageStore | None:
    """Read all images into memory that loader processes share.

    Args:
        read: returns the resized image with a given index.
        sizes: (N, 2) width and height of what ``read`` returns.
        prefix: text before each message.
        required: the user asked for the cache; otherwise it is made only if the images fit comfortably.

    Returns:
        The images, or None if the cache is not ``required`` and does not fit.

    Raises:
        InputError: the cache is required and does not fit; each process of data-parallel training needs its own.
        UnreadableError: some images cannot be read; all of them are named.
    """
    world = current_world()
    copies = world.local_size if world.local_rank <= 0 else world.local_size - 1  # the first rank has its own by then
    ends = ends_of(sizes)
    needed = int(ends[-1])
    needed_text = f"{needed * copies / GIGABYTE:.1f} GB"
    available = available_memory()
    share = SHARE if required else COMFORTABLE_SHARE
    if available is None:
        free = "an unknown amount"
        if not required:
            LOGGER.info(
                f"{prefix}The images are read from their files each time, as the free memory of this system is "
                f"unknown. They need {needed_text}; --cache ram keeps them in memory"
            )
            return None
    else:
        free = f"{available / GIGABYTE:.1f} GB"
        if needed * copies > share * available:
            problem = (
                f"{prefix}the images do not fit in memory: they need {needed_text}, and at most {share:.0%} of the "
                f"free {free} may be used"
            )
            if required:
                raise InputError(f"{problem}: choose --cache disk, or --cache none")
            LOGGER.info(f"{problem}. They are read from their files each time; --cache disk keeps them decoded")
            return None
    memory = shared_memory(needed)

    def fill(index: int) -> None:
        pixels = read(index)
        memory.array[ends[index] - pixels.size : ends[index]] = pixels.ravel()

    _in_threads(fill, len(sizes), f"{prefix}Caching images")
    remark = "" if required else "; --cache none switches this off"
    LOGGER.info(f"{prefix}Keeping {len(sizes)} images in memory ({needed / GIGABYTE:.2f} GB, {free} was free){remark}")
    return ImageStore(memory, sizes)


# -- on disk -------------------------------------------------------------------------------------------------------


def content_hash(files: Sequence[str], more: str = "", prefix: str = "") -> str:
    """BLAKE2b of the names (without folders) and contents of files, and of ``more``; dates do not count."""
    digests = [b""] * len(files)

    def note(index: int) -> None:
        try:
            content = Path(files[index]).read_bytes()
        except OSError as error:
            raise InputError(f"{files[index]} cannot be read: {error.strerror or error}") from error
        digests[index] = hashlib.blake2b(content, digest_size=16).digest()

    _in_threads(note, len(files), f"{prefix}Comparing images")
    total = hashlib.blake2b(more.encode(), digest_size=16)
    for file, digest in zip(files, digests, strict=True):
        total.update(os.path.basename(file).encode("utf-8", "surrogateescape") + b"\0" + digest)
    return total.hexdigest()


def cache_on_disk(read: Read, sizes: np.ndarray, file: Path, digest: str, prefix: str = "") -> ImageStore:
    """Keep all images in one file; an existing file is used if it is up to date.

    Args:
        read, sizes, prefix: as for ``cache_in_memory``.
        file: of the cache.
        digest: of everything that determines the content. A file with another digest, or with a wrong checksum, is
            replaced.

    Raises:
        InputError: there is too little space, or the file cannot be written.
        UnreadableError: some images cannot be read; all of them are named.
    """
    needed = int(ends_of(sizes)[-1])
    head = FILE_MARK + digest.encode() + b"\n"
    if file.is_file():
        try:
            store = _open(file, head, sizes, prefix)
            LOGGER.info(f"{prefix}Using the decoded images of {file} ({needed / GIGABYTE:.2f} GB)")
            return store
        except InputError:
            LOGGER.info(f"{prefix}{file} is damaged or no longer fits the images and options: it is written again")
    try:
        free = shutil.disk_usage(file.parent).free
        if needed > SHARE * free:
            raise InputError(
                f"{prefix}the images do not fit on the disk: decoded, they need {needed / GIGABYTE:.1f} GB, and at "
                f"most {SHARE:.0%} of the free {free / GIGABYTE:.1f} GB may be used: leave out --cache disk"
            )
        with atomic_path(file, sync=False) as draft:
            _write(read, sizes, draft, head, prefix)
    except OSError as error:
        raise InputError(f"cannot write {file} ({error.strerror}): leave out --cache disk") from error
    LOGGER.info(f"{prefix}Keeping {len(sizes)} images decoded in {file} ({needed / GIGABYTE:.2f} GB)")
    return ImageStore(_stored(file, head, sizes), sizes)


def _stored(file: Path, head: bytes, sizes: np.ndarray) -> StoredFile:
    return StoredFile(file, head, int(ends_of(sizes)[-1]) + CHECKSUM.itemsize * len(sizes))


def _open(file: Path, head: bytes, sizes: np.ndarray, prefix: str) -> ImageStore:
    """Open a cache file. Raises InputError if it has another head or size, or a checksum is wrong."""
    memory = _stored(file, head, sizes)
    store = ImageStore(memory, sizes)
    pixels = int(ends_of(sizes)[-1])  # bytes
    checksums = memory.read(pixels, pixels + CHECKSUM.itemsize * len(sizes)).view(CHECKSUM)

    def check(index: int) -> None:
        if zlib.crc32(store[index].data) != checksums[index]:
            raise InputError(f"{file}: image {index} is damaged")

    _in_threads(check, len(sizes), f"{prefix}Checking the cache")
    return store


def _write(read: Read, sizes: np.ndarray, draft: Path, head: bytes, prefix: str) -> None:
    ends = len(head) + ends_of(sizes)
    checksums = np.zeros(len(sizes), CHECKSUM)
    lock = threading.Lock()
    with open(draft, "wb") as stream:
        stream.write(head)

        def store(index: int) -> None:
            pixels = np.ascontiguousarray(read(index))
            checksums[index] = zlib.crc32(pixels.data)
            with lock:  # not mapped memory: there, a full disk would end the process
                stream.seek(int(ends[index]) - pixels.size)
                stream.write(pixels.data)

        _in_threads(store, len(sizes), f"{prefix}Caching images")
        stream.seek(int(ends[-1]))
        stream.write(checksums.tobytes())


def _in_threads(work: Callable[[int], None], count: int, description: str) -> None:
    """Do ``work`` for each index below ``count``; afterwards raise UnreadableError for those that raised InputError."""
    failures: dict[int, str] = {}

    def attempt(index: int) -> None:
        try:
            work(index)
        except InputError as error:
            if not is_of_one_file(error):
                raise
            failures[index] = str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(pool.map(attempt, range(count)), description, count, disable=None, leave=False):
            pass
    if failures:
        raise UnreadableError(dict(sorted(failures.items())))
