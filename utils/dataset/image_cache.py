"""Images kept ready, resized: in memory, or in one file on disk.

The file is: a head (mark and digest of what decides the content), the pixels of each image, and a checksum of each.
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

from utils.dataset.shared_memory import SharedBytes, StoredFile, shared_memory
from utils.dataset.unreadable import UnreadableError
from utils.distributed import current_world
from utils.errors import InputError, is_of_one_file
from utils.log import LOGGER
from utils.resources import available_memory
from utils.storage.files import atomic_path

CACHES = ("auto", "ram", "disk", "none")
SHARE = 0.8  # part of the free memory or disk space that images may take when that is asked for
COMFORTABLE_SHARE = 0.5  # part of the free memory that they take without being asked
GIGABYTE = 1e9
FILE_MARK = b"yolov5 resized images, format 2\n"
CHECKSUM = np.dtype("<u4")  # CRC-32 of an image's pixels

Read = Callable[[int], np.ndarray]  # image number -> (h, w, 3) uint8


class ImageStore:
    """Images of known sizes, one behind the other in memory that all processes share, or in a file.

    ``store[i]`` is (h, w, 3); an InputError means that the file is not what it was.
    """

    def __init__(self, memory: SharedBytes | StoredFile, sizes: np.ndarray) -> None:
        """Look at ``memory`` as images of ``sizes`` (N, 2), width and height."""
        self._memory, self._sizes, self._ends = memory, sizes, ends_of(sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, number: int) -> np.ndarray:
        width, height = self._sizes[number]
        end = self._ends[number]
        start = end - 3 * width * height
        memory = self._memory
        part = memory.read(start, end) if isinstance(memory, StoredFile) else memory.array[start:end]
        view = part.reshape(height, width, 3)
        view.flags.writeable = False
        return view


def ends_of(sizes: np.ndarray) -> np.ndarray:
    """Return where each image of these sizes (N, 2) ends, in bytes from the start of the first."""
    return np.cumsum(3 * sizes.prod(1, dtype=np.int64))


# -- in memory -----------------------------------------------------------------------------------------------------


def cache_in_memory(read: Read, sizes: np.ndarray, prefix: str = "", wanted: bool = True) -> ImageStore | None:
    """Read all images into memory that loader processes share.

    Args:
        read: gives the resized image of a number. sizes: (N, 2) its width and height, which must be right.
        wanted: the user asked for it; otherwise it is only done where the images fit comfortably.

    Returns:
        The images, or None if they are not ``wanted`` and do not fit.

    Raises:
        InputError: they are wanted and do not fit, each process of data-parallel training needing its own.
        UnreadableError: some cannot be read; all of them are named.
    """
    world = current_world()
    copies = world.local_size if world.local_rank <= 0 else world.local_size - 1  # the first rank has its own by then
    ends, available = ends_of(sizes), available_memory()
    needed = int(ends[-1])
    share = SHARE if wanted else COMFORTABLE_SHARE
    fits = needed * copies <= share * available if available is not None else wanted
    free = "an unknown amount" if available is None else f"{available / GIGABYTE:.1f} GB"
    if available is None and not wanted:
        LOGGER.info(
            f"{prefix}The images are read anew each time: how much memory is free is unknown here. They need "
            f"{needed * copies / GIGABYTE:.1f} GB; --cache ram keeps them in memory"
        )
        return None
    if not fits:
        reason = (
            f"{prefix}the images do not fit in memory: they need {needed * copies / GIGABYTE:.1f} GB, "
            f"of {free} that is free {share:.0%} may be used"
        )
        if wanted:
            raise InputError(f"{reason}: choose --cache disk, or --cache none")
        LOGGER.info(f"{reason}. They are read anew each time; --cache disk keeps them decoded")
        return None
    memory = shared_memory(needed)

    def fill(number: int) -> None:
        pixels = read(number)
        memory.array[ends[number] - pixels.size : ends[number]] = pixels.ravel()

    _in_threads(fill, len(sizes), f"{prefix}Caching images")
    remark = "" if wanted else "; --cache none leaves that out"
    LOGGER.info(f"{prefix}Keeping {len(sizes)} images in memory ({needed / GIGABYTE:.2f} GB, {free} was free){remark}")
    return ImageStore(memory, sizes)


# -- on disk -------------------------------------------------------------------------------------------------------


def content_hash(files: Sequence[str], more: str = "", prefix: str = "") -> str:
    """BLAKE2b of the names (without folders) and the bytes of files, and of ``more``; times do not count."""
    digests = [b""] * len(files)

    def note(number: int) -> None:
        try:
            content = Path(files[number]).read_bytes()
        except OSError as error:
            raise InputError(f"{files[number]} cannot be read: {error.strerror or error}") from error
        digests[number] = hashlib.blake2b(content, digest_size=16).digest()

    _in_threads(note, len(files), f"{prefix}Comparing images")
    total = hashlib.blake2b(more.encode(), digest_size=16)
    for file, digest in zip(files, digests, strict=True):
        total.update(os.path.basename(file).encode("utf-8", "surrogateescape") + b"\0" + digest)
    return total.hexdigest()


def cache_on_disk(read: Read, sizes: np.ndarray, place: Path, digest: str, prefix: str = "") -> ImageStore:
    """Keep all images in one file; one that is there and up to date is used as it is.

    Args:
        read, sizes: as for ``cache_in_memory``. place: the file. digest: of all that decides its content; a file with
            another one is made anew, and so is one with an image whose checksum is wrong.

    Raises:
        InputError: too little space is free, or the file cannot be written. UnreadableError: as above.
    """
    needed, head = int(ends_of(sizes)[-1]), FILE_MARK + digest.encode() + b"\n"
    if place.is_file():
        try:
            store = _open(place, head, sizes, prefix)
            LOGGER.info(f"{prefix}Using the decoded images of {place} ({needed / GIGABYTE:.2f} GB)")
            return store
        except InputError:
            LOGGER.info(f"{prefix}{place} does not fit the images and options any more, or is damaged: making it anew")
    try:
        free = shutil.disk_usage(place.parent).free
        if needed > SHARE * free:
            raise InputError(
                f"{prefix}the images do not fit on the disk: decoded they need {needed / GIGABYTE:.1f} GB, of the "
                f"{free / GIGABYTE:.1f} GB that are free {SHARE:.0%} may be used: leave out --cache disk"
            )
        with atomic_path(place, sync=False) as draft:
            _write(read, sizes, draft, head, prefix)
    except OSError as error:
        raise InputError(f"cannot write {place} ({error.strerror}): leave out --cache disk") from error
    LOGGER.info(f"{prefix}Keeping {len(sizes)} images decoded in {place} ({needed / GIGABYTE:.2f} GB)")
    return ImageStore(_stored(place, head, sizes), sizes)


def _stored(place: Path, head: bytes, sizes: np.ndarray) -> StoredFile:
    return StoredFile(place, head, int(ends_of(sizes)[-1]) + CHECKSUM.itemsize * len(sizes))


def _open(place: Path, head: bytes, sizes: np.ndarray, prefix: str) -> ImageStore:
    """The images of a file; raises InputError if it has another head or size, or a checksum is wrong."""
    memory, pixels = _stored(place, head, sizes), int(ends_of(sizes)[-1])
    store = ImageStore(memory, sizes)
    checksums = memory.read(pixels, pixels + CHECKSUM.itemsize * len(sizes)).view(CHECKSUM)

    def check(number: int) -> None:
        if zlib.crc32(store[number].data) != checksums[number]:
            raise InputError(f"{place}: image {number} is damaged")

    _in_threads(check, len(sizes), f"{prefix}Checking the cache")
    return store


def _write(read: Read, sizes: np.ndarray, draft: Path, head: bytes, prefix: str) -> None:
    ends, checksums = len(head) + ends_of(sizes), np.zeros(len(sizes), CHECKSUM)
    turn = threading.Lock()
    with open(draft, "wb") as stream:
        stream.write(head)

        def store(number: int) -> None:
            pixels = np.ascontiguousarray(read(number))
            checksums[number] = zlib.crc32(pixels.data)
            with turn:  # ordinary writes: a full disk is an error, where with mapped memory it would end the process
                stream.seek(int(ends[number]) - pixels.size)
                stream.write(pixels.data)

        _in_threads(store, len(sizes), f"{prefix}Caching images")
        stream.seek(int(ends[-1]))
        stream.write(checksums.tobytes())


def _in_threads(work: Callable[[int], None], count: int, description: str) -> None:
    """Do ``work`` for each number; raises UnreadableError of all whose work has raised InputError."""
    from tqdm import tqdm

    failures: dict[int, str] = {}

    def attempt(number: int) -> None:
        try:
            work(number)
        except InputError as error:
            if not is_of_one_file(error):
                raise
            failures[number] = str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(pool.map(attempt, range(count)), description, count, disable=None, leave=False):
            pass
    if failures:
        raise UnreadableError(dict(sorted(failures.items())))
