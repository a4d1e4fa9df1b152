"""The plan of a pipeline in figures: epochs of fine-tuning by the depth of the cut, and the time they take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools.pipeline_options import PipelineOptions
from prune_tools.planning.costs import cost_of
from prune_tools.tuning.recipes import epochs_after
from utils.checks import check_file, check_img_size
from utils.dataset.description import check_dataset
from utils.dataset.image_files import find_images
from utils.device import select_device, time_sync
from utils.errors import InputError
from utils.log import LOGGER
from utils.model_info import grid_size

TIMED_STEPS = 3  # after one that is not timed
MOST_IMAGES = 8  # of the batch that is timed
FORWARD = 0.4  # share of a training step that its forward pass takes; a teacher and a validation need no more than that


def with_epochs(options: PipelineOptions, model: Any) -> PipelineOptions:
    """The options with the epochs of fine-tuning filled in, which follow from the share that remains; says both.

    ``model`` is the one that the pipeline starts from.
    """
    if options.finetune_epochs is not None:
        return options
    share = share_left(options, model)
    epochs = epochs_after(share)
    LOGGER.info(
        f"{options.goal()} leaves {share:.0%}: {epochs} epochs of fine-tuning, unless --finetune-epochs is given"
    )
    return replace(options, finetune_epochs=epochs)


def share_left(options: PipelineOptions, model: Any) -> float:
    """The share of the goal's quantity that remains: of operations, parameters, or channels."""
    target = options.target()
    if options.percent is not None or target is None:
        return 1 - (options.percent or 0.0)
    present = cost_of(target.quantity, model)
    return min(target.budget(present) / max(present, 1.0), 1.0)


def log_forecast(options: PipelineOptions, model: Any) -> None:
    """Say about how long the trainings will take here, from the time of a few steps of the unpruned ``model``.

    Nothing is said where the data are not at hand yet: the first training fetches them, or says what is missing.
    """
    share = share_left(options, model)
    try:
        data = check_dataset(options.data, splits=("train", "val"))
        images, validated = (len(find_images(data[split])) for split in ("train", "val"))
    except InputError:
        return
    seconds = seconds_per_image(model, options)
    parts = {}
    for name, epochs, width, taught in _trainings(options, share):
        training = images * (width + FORWARD * taught)
        parts[name] = epochs * seconds * (training + validated * FORWARD * width)
    each = ", ".join(f"{name} {in_words(part)}" for name, part in parts.items())
    LOGGER.info(f"The trainings will take about {in_words(sum(parts.values()))} on this machine: {each}")


def _trainings(options: PipelineOptions, share: float) -> list[tuple[str, int, float, bool]]:
    """Name, epochs, width share, and whether there is a teacher, of each kind of training."""
    teacher = bool(options.teacher) or not options.once
    base = [] if options.once else [("base", options.base_epochs, 1.0, False)]
    sparse = ("sparse", options.sparse_epochs or 0, 1.0, teacher and options.penalty == "polarize")
    return [*base, sparse, ("fine-tuning", options.finetune_epochs or 0, share, teacher)]


def start_model(options: PipelineOptions) -> Any:
    """The network that the pipeline starts from, in float32. Raises InputError where none is given."""
    if options.cfg:
        return DetectionModel(check_file(options.cfg))
    if not options.weights:
        raise InputError("nothing to train: give --weights CHECKPOINT.pt, or --cfg MODEL.yaml to start from scratch")
    return load_checkpoint(options.weights)["model"].float()


def seconds_per_image(model: Any, options: PipelineOptions) -> float:
    """Seconds that forward and backward pass take for one image of ``options.imgsz``, on the device of the run."""
    device = select_device(options.device)
    model = model.to(device, memory_format=torch.channels_last).train().requires_grad_()
    count = min(options.batch_size, MOST_IMAGES)
    side = check_img_size(options.imgsz, grid_size(model))
    images = torch.zeros(count, 3, side, side, device=device)  # (B, 3, H, W)
    images = images.contiguous(memory_format=torch.channels_last)
    start = 0.0
    for step in range(TIMED_STEPS + 1):
        if step == 1:
            start = time_sync()
        sum(head.square().mean() for head in model(images)).backward()
        model.zero_grad()
    return (time_sync() - start) / (TIMED_STEPS * count)


def in_words(seconds: float) -> str:
    """A duration to two figures or so: 40 s, 12 min, 3 h 20 min, 2 days 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(round(minutes / 10) * 10, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours else f"{days} days"
