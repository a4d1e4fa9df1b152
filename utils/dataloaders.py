"""The loaders that feed training and validation with batches; also v6.2's place for the data sets' names."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from multiprocessing.connection import wait
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from utils.augmentations import letterbox
from utils.dataset.items import Item, LoadImagesAndLabels, Shapes, SplitPath
from utils.dataset.labels import check_class_indices, img2label_paths
from utils.dataset.splits import autosplit
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
    "LoadStreams",
    "SeededSampler",
    "autosplit",
    "collate_fn",
    "collate_fn4",
    "create_dataloader",
    "exif_transpose",  # noqa: F822
    "img2label_paths",
    "letterbox",
]

LAST_BREATH_SECONDS = 1.0  # within which a loader process that was killed is known to have ended


def __getattr__(name: str) -> Any:
    """Return PIL's ``exif_transpose``, a name of v6.2; the library is imported on first use."""
    if name == "exif_transpose":
        from PIL.ImageOps import exif_transpose

        return exif_transpose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# -- batches -------------------------------------------------------------------------------------------------------


def collate_fn(batch: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...], tuple[Shapes | None, ...]]:
    """Items -> images (B, 3, H, W), labels (T, 6) with the index in the batch first, paths, shapes."""
    if not batch:  # of images that cannot be read any more
        return torch.zeros(0, 3, 0, 0, dtype=torch.uint8), torch.zeros(0, 6), (), ()
    images, labels, paths, shapes = zip(*batch, strict=True)
    joined = torch.cat(labels)
    counts = torch.tensor([len(rows) for rows in labels])
    joined[:, 0] = torch.repeat_interleave(torch.arange(len(labels)), counts)
    return torch.stack(images), joined, paths, shapes


def collate_fn4(batch: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...], tuple[None, ...]]:
    """As ``collate_fn``, but one image of each four, twice as large: the four side by side, or the first enlarged.

    Which of both is decided by chance. If the batch is no multiple of four, the last group repeats earlier images.
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
        pictures = [item[0] for item in group]
        columns = [torch.cat(pair, 1) for pair in (pictures[:2], pictures[2:])]  # 1 lies below 0, 3 below 2
        images.append(torch.cat(columns, 2))
        rows = [item[1].clone() for item in group]
        for number, own in enumerate(rows):
            own[:, 2:4] += torch.tensor([number // 2, number % 2])
            own[:, 2:] /= 2
        labels.append(torch.cat(rows))
    items = [(image, rows, path, None) for image, rows, path in zip(images, labels, paths, strict=True)]
    return collate_fn(items)  # type: ignore[return-value]


class SeededSampler(Sampler):
    """Every index once, each with a seed for its augmentation.

    All ranks draw the same order and the same seeds from generators in the same state; each takes its part of every
    batch. So an epoch depends on neither the number of ranks or workers nor their speed, and can be repeated from the
    generator's state. Where the ranks' parts would not be equal, the last index is repeated.
    """

    def __init__(
        self, count: int, generator: torch.Generator, shuffle: bool = True, rank: int = 0, ranks: int = 1
    ) -> None:
        self.count, self.generator, self.shuffle, self.rank, self.ranks = count, generator, shuffle, rank, ranks

    def __len__(self) -> int:
        return -(-self.count // self.ranks)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.randperm(self.count, generator=self.generator) if self.shuffle else torch.arange(self.count)
        seeds = torch.randint(2**32, (self.count,), generator=self.generator)
        pairs = list(zip(order.tolist(), seeds.tolist(), strict=True))
        pairs += pairs[-1:] * (len(self) * self.ranks - self.count)
        return iter(pairs[self.rank :: self.ranks])


class Loader(DataLoader):
    """Batches of a LoadImagesAndLabels, apart from those of which no image can be read any more.

    Raises InputError, in one line, also for what goes wrong in a loader process.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """One pass; at its end the label cache learns which images could not be read."""
        iterator: Any = None
        try:
            iterator = super().__iter__()
            for batch in iterator:
                if len(batch[0]):
                    yield batch
        except InputError as error:
            raise InputError(str(error).strip().rpartition(f"{InputError.__name__}: ")[2]) from None
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:  # also of its half of a batch
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


def seed_worker(_: int) -> None:
    """Set up a worker process: own random numbers, one thread."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    gc.freeze()  # collections would write to everything that came with the fork, and so copy it


def count_workers(wanted: int, batch_size: int) -> int:
    """Worker processes to start: at most as wanted, as images in a batch, as this rank's part of the processors."""
    processors = usable_cores()
    return min(processors // current_world().local_size, batch_size if batch_size > 1 else 0, wanted)


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
        batch_size: of this process; with ``quad`` before four images become one.
        rank: number of this process in distributed training (each then gets its part of every batch), or -1.
        workers: largest number of worker processes; 0 loads in this process.
        shuffle: new order in each epoch; switched off with ``rect``.
        seed: decides order and augmentation. The state of ``loader.sampler.generator`` (if the sampler has one) before
            an epoch decides that epoch: save and restore it to continue a run exactly.
        device: where the batches go; for a GPU they are put into pinned memory, from which copies are asynchronous.
        names: the classes; given, labels of others are refused.

    Raises:
        InputError: wrong arguments, a split without usable images, or a label of an unknown class.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}, expected at least 1")
    if rect and shuffle:
        LOGGER.warning("WARNING: rectangular batches need images sorted by aspect: not shuffling")
        shuffle = False
    own_rank, rank_count = ranks() if rank != -1 else (0, 1)
    with first_rank_first() if rank != -1 else nullcontext():
        together = batch_size * rank_count  # one shape for what all ranks do at a time
        dataset = LoadImagesAndLabels(
            path, imgsz, together, augment, hyp, rect, image_weights, cache, single_cls, stride, pad, prefix
        )
    if names is not None:
        check_class_indices(dataset.labels, dataset.label_files, len(names), names)
    batch_size = min(batch_size, len(dataset))
    worker_count = count_workers(workers, batch_size)
    generator, worker_generator = (torch.Generator().manual_seed(seed) for _ in range(2))
    sampler: Sampler
    if augment or shuffle or rank_count > 1:
        sampler = SeededSampler(len(dataset), generator, shuffle, own_rank, rank_count)
    else:
        sampler = SequentialSampler(dataset)
    loader = Loader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=worker_count,
        collate_fn=collate_fn4 if quad else collate_fn,
        pin_memory=device is not None and device.type == "cuda",
        worker_init_fn=seed_worker,
        generator=worker_generator,  # its own: draws for starting workers must not shift the order of the images
        persistent_workers=worker_count > 0 and not image_weights,  # new indices reach only new workers
    )
    return loader, dataset
