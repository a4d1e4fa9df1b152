"""The loaders that feed training and validation with batches; also v6.2's place for the data sets' names."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from utils.dataset import Item, LoadImagesAndLabels, Shapes, SplitPath
from utils.errors import InputError
from utils.labels import img2label_paths
from utils.log import LOGGER
from utils.sources import LoadImages
from utils.streams import LoadStreams

__all__ = [
    "LoadImages",
    "LoadImagesAndLabels",
    "LoadStreams",
    "SeededSampler",
    "collate_fn",
    "create_dataloader",
    "img2label_paths",
]


# -- batches -------------------------------------------------------------------------------------------------------


def collate_fn(batch: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...], tuple[Shapes | None, ...]]:
    """Items -> images (B, 3, H, W), labels (T, 6) with the index in the batch first, paths, shapes."""
    images, labels, paths, shapes = zip(*batch, strict=True)
    joined = torch.cat(labels)
    counts = torch.tensor([len(rows) for rows in labels])
    joined[:, 0] = torch.repeat_interleave(torch.arange(len(labels)), counts)
    return torch.stack(images), joined, paths, shapes


class SeededSampler(Sampler):
    """Gives each index of another sampler a seed, so that augmentation depends on neither the number of workers nor
    their speed, and continues exactly after a restart from the generator's state."""

    def __init__(self, indices: Sampler, generator: torch.Generator) -> None:
        self.indices, self.generator = indices, generator

    def __len__(self) -> int:
        return len(self.indices)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(self.indices)
        seeds = torch.randint(2**32, (len(order),), generator=self.generator).tolist()
        return iter(zip(order, seeds, strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Tell a distributed sampler the epoch: it shuffles by it."""
        if isinstance(self.indices, DistributedSampler):
            self.indices.set_epoch(epoch)


def seed_worker(_: int) -> None:
    """Set up a worker process: own random numbers, one thread."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@contextmanager
def first_process_first(rank: int) -> Iterator[None]:
    """Let the process of rank 0 run the block before all others do."""
    distributed = rank != -1 and torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and rank > 0:
        torch.distributed.barrier()
    try:
        yield
    finally:
        if distributed and rank == 0:
            torch.distributed.barrier()


def count_workers(wanted: int, batch_size: int) -> int:
    """Worker processes to start: not more than wanted, than images in a batch, or than processors for each GPU."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(processors // max(torch.cuda.device_count(), 1), batch_size if batch_size > 1 else 0, wanted)


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
    prefix: str = "",
    shuffle: bool = False,
    seed: int = 0,
) -> tuple[DataLoader, LoadImagesAndLabels]:
    """Open a split and make its loader; see ``LoadImagesAndLabels`` for most arguments, ``collate_fn`` for a batch.

    Args:
        rank: number of this process in distributed training (each then gets its part of the images), or -1.
        workers: largest number of worker processes; 0 loads in this process, with its global random numbers.
        shuffle: new order in each epoch; switched off with ``rect``.
        seed: decides order and, with workers, augmentation. The state of ``loader.sampler.generator`` (if the sampler
            has one) before an epoch decides that epoch: save and restore it to continue a run exactly.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}, expected at least 1")
    if rect and shuffle:
        LOGGER.warning("WARNING: rectangular batches need images sorted by aspect: not shuffling")
        shuffle = False
    with first_process_first(rank):
        dataset = LoadImagesAndLabels(
            path, imgsz, batch_size, augment, hyp, rect, image_weights, cache, single_cls, stride, pad, prefix
        )
    batch_size = min(batch_size, len(dataset))
    worker_count = count_workers(workers, batch_size)
    generator, worker_generator = (torch.Generator().manual_seed(seed + max(rank, 0)) for _ in range(2))
    sampler: Sampler
    if rank != -1:
        sampler = DistributedSampler(dataset, shuffle=shuffle, seed=seed)
    else:
        sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    if augment and worker_count:
        sampler = SeededSampler(sampler, generator)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=worker_count,
        collate_fn=collate_fn,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=seed_worker,
        generator=worker_generator,  # its own: draws for starting workers must not shift the order of the images
        persistent_workers=worker_count > 0 and not image_weights,  # new indices reach only new workers
    )
    return loader, dataset
