"""The loaders of a training run."""

from __future__ import annotations

from torch.utils.data import DataLoader

from utils.dataloaders import create_dataloader
from utils.dataset.own_augmentation import OwnAugmentation
from utils.log import colorstr
from utils.training.state import Run


def training_loader(run: Run) -> DataLoader:
    """Make the loader of the training split, for this process. Raises InputError for unknown classes or --augment."""
    options = run.options
    loader, dataset = create_dataloader(
        run.data["train"], run.image_size, options.batch_size // run.world.size, run.grid_size,
        single_cls=options.single_cls, hyp=run.hyp, augment=True, rect=options.rect, rank=run.world.rank,
        cache="none" if options.cache == "val" else options.cache, workers=options.workers,
        image_weights=options.image_weights, quad=options.quad, prefix=colorstr("train: "), shuffle=not options.rect,
        seed=options.seed, device=run.device, names=run.names,
    )  # fmt: skip
    if options.augment:
        dataset.own_augmentation = OwnAugmentation(options.augment, len(run.names))
    return loader


def validation_loader(run: Run) -> DataLoader:
    """Make the loader of the validation split: rectangles, in batches twice as large as a training process has."""
    options = run.options
    cache = "ram" if options.cache == "val" else options.cache
    loader, _ = create_dataloader(
        run.data["val"], run.image_size, options.batch_size // run.world.size * 2, run.grid_size,
        single_cls=options.single_cls, hyp=run.hyp, cache="none" if options.noval else cache, pad=0.5, rect=True,
        workers=options.workers * 2, prefix=colorstr("val: "), seed=options.seed, device=run.device, names=run.names,
    )  # fmt: skip
    return loader
