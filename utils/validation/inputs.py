"""Inputs of a validation: the model, the data set, the loader, and the values that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from utils.backend import Backend
from utils.callbacks import Callbacks
from utils.checks import check_img_size
from utils.dataloaders import create_dataloader
from utils.dataset.classes import SINGLE_CLASS, SINGLE_CLASS_NOTE, class_names, is_single_class
from utils.dataset.description import check_dataset
from utils.device import select_device
from utils.errors import InputError, OtherClassesError
from utils.log import LOGGER, colorstr
from utils.model_info import grid_size
from utils.storage.files import make_folder
from utils.storage.folder_lock import claimed_folder
from utils.training_record import with_record
from utils.validation.options import AP_THRESHOLDS, IMAGE_SIZE, SPLITS, ValOptions

Dataset = dict[str, Any]  # a data set YAML, checked
ComputeLoss = Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # raw heads, targets -> total, items


@dataclass(frozen=True)
class Given:
    """Arguments of ``val.validate`` that are not options; None for what has to be opened.

    Attributes:
        model: a network in memory. loader: batches of the split.
        save_dir: folder for files; '' for a new run folder.
        plots: draw curves, confusion matrix and example batches.
        callbacks: the ``on_val_*`` hooks.
        compute_loss: loss of the raw heads; given by training only.
    """

    model: nn.Module | None
    loader: DataLoader | None
    save_dir: str | Path
    plots: bool
    callbacks: Callbacks
    compute_loss: ComputeLoss | None


@dataclass(frozen=True)
class Inputs:
    """Everything that one pass of validation needs, opened and checked.

    Attributes:
        options: as the user gave them, or as the weights record them. given: the other arguments of ``val.validate``.
        model: a network in memory, or an opened file. loader: batches of the split.
        data: the checked data set. names: {class index: name}.
        image_size: side of the largest image in pixels, a multiple of the model's stride.
        single_cls: all classes count as one.
    """

    options: ValOptions
    given: Given
    model: Any
    loader: DataLoader
    data: Dataset
    names: dict[int, str]
    image_size: int
    single_cls: bool


def open_inputs(
    options: ValOptions, data: str | Path | Dataset, given: Given, open_backend: Callable[..., Any]
) -> Inputs:
    """Check the data set, open the model and make the loader, unless they are given.

    Args:
        options: of the validation; ``data`` takes precedence over ``options.data``.
        data: data set YAML, or a checked data set.
        given: what does not have to be opened.
        open_backend: opens weights as a ``Backend``; called with arguments of ``models.backends.DetectMultiBackend``.

    Raises:
        InputError: the data set, the weights or the image size cannot be used, or do not go together.
    """
    checked: Dataset = {}
    if isinstance(data, dict) and given.loader is not None:
        checked = data
    elif data:
        checked = check_dataset(data, splits=(options.split,), allow_scripts=options.allow_download_scripts)
    if given.model is None:
        model = open_weights(options, checked, open_backend)
        open_fields = ["data"] * (not checked) + ["imgsz"] * model.pt  # an export has its own size
        options = with_record(options, model.record, (options.split,), open_fields)
        checked = checked or check_dataset(options.data, splits=(options.split,))
        single_cls = joins_classes(model, options, checked)
        names = model.names
        device = model.device
    else:
        model = given.model
        single_cls = options.single_cls
        names = checked["names"]
        device = next(model.parameters(), torch.zeros(0)).device
    stride = grid_size(model)
    image_size = options.imgsz
    if not getattr(model, "pt", True):
        image_size = square_side(model.image_size(options.imgsz), weights_of(options))
    image_size = check_img_size(image_size or IMAGE_SIZE, stride)
    warn_of(options)
    loader = given.loader
    if loader is None:
        square = getattr(model, "fixed_size", None) is not None
        if square:
            LOGGER.info(
                f"{weights_of(options)} takes one image size: its images are padded to squares, while files of any "
                "size and checkpoints get rectangles; mAP may differ in the third decimal"
            )
        loader = make_loader(replace(options, single_cls=single_cls), checked, image_size, stride, square, device)
    if given.model is None:
        model.warmup((options.batch_size, 3, image_size, image_size))
    if single_cls:
        names = {0: SINGLE_CLASS}
    return Inputs(options, given, model, loader, checked, names, image_size, single_cls)


def weights_of(options: ValOptions) -> str | list[str]:
    """Return the weights as one file, or as the list of an ensemble."""
    return options.weights[0] if len(options.weights) == 1 else options.weights


def open_weights(options: ValOptions, data: Dataset, open_backend: Callable[..., Any]) -> Any:
    """Open the weights on the device that the options choose. Raises InputError where they cannot do what is asked."""
    device = select_device(options.device, options.batch_size)
    model = open_backend(weights_of(options), device=device, data=data, fp16=options.half, dnn=options.dnn)
    model.check_request(options.conf_thres, options.iou_thres, augment=options.augment)
    model.to(memory_format=torch.channels_last)
    return model


def joins_classes(model: Backend, options: ValOptions, data: Dataset) -> bool:
    """Tell whether all classes count as one, as asked for, or because the model was trained that way.

    Raises:
        OtherClassesError: the data set has other classes than the model.
    """
    if options.single_cls:
        return True
    if is_single_class(class_names(model), data["nc"]):
        LOGGER.info(SINGLE_CLASS_NOTE.format(weights_of(options)))
        return True
    if len(model.names) != data["nc"]:
        raise OtherClassesError(
            f"{weights_of(options)} has {len(model.names)} classes but {options.data} has {data['nc']}: "
            "validate with the data set that the model was trained on"
        )
    return False


def square_side(size: Sequence[int], weights: str | list[str]) -> int:
    """Return the side of a square (height, width) in pixels. Raises InputError for other sizes of an export."""
    if len(set(size)) > 1:
        raise InputError(
            f"{weights} takes images of {size[0]}x{size[1]} pixels, and validation uses square ones: export with one "
            "--imgsz, or with --dynamic"
        )
    return size[0]


def warn_of(options: ValOptions) -> None:
    """Log what makes the figures incomparable."""
    if options.conf_thres > AP_THRESHOLDS[0] and options.task in SPLITS:
        LOGGER.warning(f"confidence threshold {options.conf_thres:g}: mAP is comparable with {AP_THRESHOLDS[0]} only")
    if options.save_hybrid:
        LOGGER.warning("the true labels are among the predictions: the figures below say nothing about the model")


def make_loader(
    options: ValOptions,
    data: Mapping[str, Any],
    image_size: int,
    stride: int,
    square: bool = False,
    device: torch.device | None = None,
) -> DataLoader:
    """Make the loader of a validation: rectangular batches, or square ones.

    Images get half a stride of padding, but none when speed is measured.
    """
    loader, _ = create_dataloader(
        data[options.split],
        image_size,
        options.batch_size,
        stride,
        single_cls=options.single_cls,
        pad=0.0 if options.task == "speed" else 0.5,
        rect=not square,
        workers=options.workers,
        prefix=colorstr(f"{options.split}: "),
        device=device,
        names=data["names"],
    )
    return loader


@contextmanager
def results_folder(options: ValOptions, given: Given) -> Iterator[Path]:
    """Yield the folder for results: ``save_dir``, or a new one; it is created only if something is written."""
    folder = Path(given.save_dir or Path(options.project) / options.name)
    writes = given.plots or options.save_txt or options.save_json
    with claimed_folder(folder, options.exist_ok) if writes and not given.save_dir else nullcontext(folder) as claimed:
        if writes:
            make_folder(claimed / "labels" if options.save_txt else claimed)
        yield claimed
