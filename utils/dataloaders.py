"""Loaders of batches for training and validation. v6.2's names for data sets are here, too."""

from __future__ import annotations

import atexit
import gc
import random
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import wait
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from utils.augmentations import letterbox
from utils.dataset.items import Item, LoadImagesAndLabels, Shapes, SplitPath, UnlabelledError
from utils.dataset.labels import check_class_indices, img2label_paths
from utils.dataset.other_labels import annotation_hint
from utils.dataset.splits import autosplit
from utils.detection.live import LoadScreenshots, LoadWebcam
from utils.detection.sources import IMG_FORMATS, VID_FORMATS, LoadImages
from utils.detection.streams import LoadStreams
from utils.distributed import current_world, first_rank_first, ranks
from utils.errors import InputError, loader_failure
from utils.log import LOGGER
from utils.resources import usable_cores

__all__ = [
    "IMG_FORMATS",
    "VID_FORMATS",
    "LoadImages",
    "LoadImagesAndLabels",
    "LoadScreenshots",
    "LoadStreams",
    "LoadWebcam",
    "SeededSampler",
    "autosplit",
    "collate_fn",
    "collate_fn4",
    "create_dataloader",
    "exif_transpose",  # noqa: F822
    "img2label_paths",
    "letterbox",
]

LAST_BREATH_SECONDS = 1.0  # after as long at most, a killed loader process is known to have ended


def __getattr__(name: str) -> Any:
    """Return PIL's ``exif_transpose``, a name of v6.2; the library is imported on first use."""
    if name == "exif_transpose":
        from PIL.ImageOps import exif_transpose

        return exif_transpose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# -- batches -------------------------------------------------------------------------------------------------------


def collate_fn(batch: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...], tuple[Shapes | None, ...]]:
    """Join items to images (B, 3, H, W), labels (T, 6) with the index in the batch first, B paths and B shapes."""
    if not batch:  # its images cannot be read any more
        return torch.zeros(0, 3, 0, 0, dtype=torch.uint8), torch.zeros(0, 6), (), ()
    images, labels, paths, shapes = zip(*batch, strict=True)
    joined = torch.cat(labels)  # (T, 6)
    counts = torch.tensor([len(rows) for rows in labels])  # (B,)
    joined[:, 0] = torch.repeat_interleave(torch.arange(len(labels)), counts)
    return torch.stack(images), joined, paths, shapes


def collate_fn4(batch: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...], tuple[None, ...]]:
    """As ``collate_fn``, but of each four images make one twice as large: the four side by side, or the first enlarged.

    Which of the two is drawn at random. If the batch is not a multiple of four, the last group repeats earlier images.
    """
    images, labels, paths = [], [], []
    for start in range(0, len(batch), 4):
        group = [batch[number % len(batch)] for number in range(start, start + 4)]
        paths.append(group[0][2])
        if random.random() < 0.5:
            enlarged = torch.nn.functional.interpolate(group[0][0][None].float(), scale_factor=2, mode="bilinear")
            images.append(enlarged[0].round().to(torch.uint8))
            labels.append(group[0][1])
            continue
        pictures = [item[0] for item in group]  # (3, H, W) each
        left = torch.cat(pictures[:2], 1)  # (3, 2 H, W)
        right = torch.cat(pictures[2:], 1)
        images.append(torch.cat((left, right), 2))  # (3, 2 H, 2 W)
        group_labels = [item[1].clone() for item in group]
        for number, rows in enumerate(group_labels):
            rows[:, 2:4] += torch.tensor([number // 2, number % 2])
            rows[:, 2:] /= 2
        labels.append(torch.cat(group_labels))
    items = [(image, rows, path, None) for image, rows, path in zip(images, labels, paths, strict=True)]
    return collate_fn(items)  # type: ignore[return-value]


class SeededSampler(Sampler):
    """Yields every index once, with a seed for its augmentation.

    All ranks draw the same order and seeds from generators in the same state, and each takes its part of every batch.
    So an epoch does not depend on the number or speed of ranks and workers, and can be repeated from the generator's
    state. If the indices cannot be divided equally, the last one is repeated.
    """

    def __init__(
        self, count: int, generator: torch.Generator, shuffle: bool = True, rank: int = 0, ranks: int = 1
    ) -> None:
        self.count, self.generator, self.shuffle = count, generator, shuffle
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return -(-self.count // self.ranks)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.randperm(self.count, generator=self.generator) if self.shuffle else torch.arange(self.count)
        seeds = torch.randint(2**32, (self.count,), generator=self.generator)
        pairs = list(zip(order.tolist(), seeds.tolist(), strict=True))
        pairs += pairs[-1:] * (len(self) * self.ranks - self.count)
        return iter(pairs[self.rank :: self.ranks])


class Loader(DataLoader):
    """Batches of a LoadImagesAndLabels, without those none of whose images can be read any more.

    Errors of loader processes that the user can mend are raised as InputError, in one line.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Begin an epoch at once, with the processes at work before the first batch is asked for."""
        batches = self._batches()
        next(batches)
        return batches

    def close(self) -> None:
        """End the loader processes, if there are any; a later epoch starts new ones."""
        self._stop_workers(self._iterator)

    def _batches(self) -> Iterator[Any]:
        """Yield None when the epoch has begun, then the batches.

        At the end the label cache is updated with the images that could not be read.
        """
        iterator: Any = None
        try:
            known = self._iterator
            iterator = super().__iter__()
            if self._iterator is not known:  # later than torch's own function at exit, so that it is called earlier
                atexit.register(_close_if_alive, weakref.ref(self))
            yield None
            for batch in iterator:
                if len(batch[0]):
                    yield batch
        except InputError as error:
            self._stop_workers(iterator)
            raise InputError(str(error).strip().rpartition(f"{InputError.__name__}: ")[2]) from None
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:  # also of a truncated batch
            message = loader_failure(error)
            workers = [] if message else getattr(iterator, "_workers", [])
            ended = wait([worker.sentinel for worker in workers], LAST_BREATH_SECONDS)
            for worker in workers:
                if worker.sentinel in ended:
                    worker.join(LAST_BREATH_SECONDS)  # its files are closed, but it may still be ending
                if worker.exitcode:
                    message = loader_failure(RuntimeError(f"DataLoader worker (pid {worker.pid}) exited unexpectedly"))
            if not message:
                raise
            raise InputError(message) from error
        finally:
            self.dataset.settle()  # type: ignore[attr-defined]

    def _stop_workers(self, iterator: Any) -> None:
        """End the loader processes at once: left to Python's end, each one is waited for in vain for 5 seconds."""
        self._iterator = None
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()


def _close_if_alive(reference: weakref.ref[Loader]) -> None:
    loader = reference()
    if loader is not None:
        loader.close()


def seed_worker(_: int) -> None:
    """Set up a worker process: its own random numbers, and one thread."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    gc.freeze()  # a collection would write to, and thereby copy, everything shared with the parent


def count_workers(most: int, batch_size: int) -> int:
    """Number of worker processes: ``most``, but not more than images in a batch or this rank's share of the cores."""
    cores = usable_cores() // current_world().local_size
    return min(cores, batch_size if batch_size > 1 else 0, most)


@contextmanager
def _hint_at_other_labels(names: Mapping[int, str] | Sequence[str] | None) -> Iterator[None]:
    """Add the command that converts what lies beside the images to the error that there are no labels."""
    try:
        yield
    except UnlabelledError as error:
        hint = annotation_hint(error.images, names)
        raise InputError("; ".join(filter(None, (str(error), hint)))) from None


def _warn_of_other_labels(dataset: LoadImagesAndLabels, names: Mapping[int, str] | Sequence[str]) -> None:
    """Warn where most images have no label file, and labels in another format lie beside them."""
    count = len(dataset) - dataset.label_file_count
    if count > len(dataset) / 2 and (hint := annotation_hint(dataset.im_files, names)):
        LOGGER.warning(f"WARNING: {count} of the {len(dataset)} images of {dataset.path} have no label file: {hint}")


def create_dataloader(
    path: SplitPath,
    imgsz: int,
    batch_size: int,
    stride: int,
    single_cls: bool = False,
    hyp: Mapping[str, float] | None = None,
    augment: bool = False,
    cache: bool | str | None = False,
    pad: float = 0.0,
    rect: bool = False,
    rank: int = -1,
    workers: int = 8,
    image_weights: bool = False,
    quad: bool = False,
    prefix: str = "",
    shuffle: bool = False,
    seed: int = 0,
    device: torch.device | None = None,
    names: Mapping[int, str] | Sequence[str] | None = None,
) -> tuple[DataLoader, LoadImagesAndLabels]:
    """Open a split and make its loader; see ``LoadImagesAndLabels`` for most arguments, ``collate_fn`` for a batch.

    Args:
        batch_size: of this process; with ``quad``, before four images become one.
        rank: of this process in distributed training, where each process gets its part of every batch; or -1.
        workers: maximum number of worker processes; 0 loads in this process.
        shuffle: new order in each epoch; ignored with ``rect``.
        seed: of order and augmentation. The state of ``loader.sampler.generator`` (if the sampler has one) before an
            epoch determines that epoch: save and restore it to continue a run exactly.
        device: destination of the batches; for a GPU they are put into pinned memory, for asynchronous copies.
        names: the classes; if given, labels of other classes are refused.

    Raises:
        InputError: an argument is wrong, the split has no usable image, or a label has an unknown class.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}, expected at least 1")
    if rect and shuffle:
        LOGGER.warning("WARNING: rectangular batches need images sorted by aspect ratio: they are not shuffled")
        shuffle = False
    own_rank, rank_count = ranks() if rank != -1 else (0, 1)
    with first_rank_first() if rank != -1 else nullcontext():
        together = batch_size * rank_count  # all ranks process one shape at a time
        with _hint_at_other_labels(names):
            dataset = LoadImagesAndLabels(
                path, imgsz, together, augment, hyp, rect, image_weights, cache, single_cls, stride, pad, prefix
            )
    if names is not None:
        check_class_indices(dataset.labels, dataset.label_files, len(names), names)
        _warn_of_other_labels(dataset, names)
    batch_size = min(batch_size, len(dataset))
    worker_count = count_workers(workers, batch_size)
    sampler: Sampler = SequentialSampler(dataset)
    if augment or shuffle or rank_count > 1:
        generator = torch.Generator().manual_seed(seed)
        sampler = SeededSampler(len(dataset), generator, shuffle, own_rank, rank_count)
    loader = Loader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=worker_count,
        collate_fn=collate_fn4 if quad else collate_fn,
        pin_memory=device is not None and device.type == "cuda",
        worker_init_fn=seed_worker,
        generator=torch.Generator().manual_seed(seed),  # apart from the sampler's: workers' seeds come from it
        persistent_workers=worker_count > 0 and not image_weights,  # new indices only reach new workers
    )
    return loader, dataset
