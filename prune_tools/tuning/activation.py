"""Give a network another activation before fine-tuning: a new file beside the weights, from which the run starts."""

from __future__ import annotations

import statistics
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from models.activations import module_text, parse_activation
from models.blocks import Conv
from models.description import describe, describe_file
from models.loading import deployed, load_checkpoint
from models.yolo import DetectionModel
from prune_tools.channels.structure import Structure
from prune_tools.planning.width_step import time_networks
from prune_tools.repair.reconstruction import reconstruct
from prune_tools.training_images import repair_images
from prune_tools.tuning.options import ACTIVATIONS, FinetuneOptions
from utils.checkpoint import CLEARED_KEYS, RESUME_KEY, save_checkpoint
from utils.checks import check_img_size
from utils.dataset.description import check_dataset
from utils.device import select_device
from utils.distributed import current_world
from utils.downloads import fetch_weights
from utils.errors import InputError
from utils.log import LOGGER
from utils.model_info import grid_size


def with_activation(options: FinetuneOptions) -> FinetuneOptions:
    """The options with the weights replaced by a file that has the activation of ``options``; logs the time it saves.

    Its layers are re-fitted to what they computed before. The file lies beside the weights, so that a resumed run, and
    whoever looks for the start of this one, finds it.

    Raises:
        InputError: the weights have this activation already, or no configuration describes their network.
    """
    source = Path(fetch_weights(options.weights))
    checkpoint = load_checkpoint(source)
    before: DetectionModel = deployed(checkpoint)
    dtype = next(before.parameters()).dtype
    before.float().eval().yaml = describe_file(before, source)
    after = replaced(before, ACTIVATIONS[options.activation])
    if after is None:
        raise InputError(f"--activation {options.activation}: {source} has it already, leave it out")
    target = source.with_name(f"{source.stem}_{options.activation}.pt")
    options = replace(options, imgsz=check_img_size(options.imgsz, grid_size(before)))
    if current_world().is_main:
        _log_times(before, after, options)
    if options.reconstruct:
        _refit(before, after, options)
    checkpoint |= dict.fromkeys(CLEARED_KEYS)
    checkpoint.pop(RESUME_KEY, None)
    save_checkpoint({**checkpoint, "model": after.to(dtype), "epoch": -1}, target)
    LOGGER.info(f"Starting from {target}, the weights of {source} with {ACTIVATIONS[options.activation]}")
    return replace(options, weights=str(target))


def replaced(model: DetectionModel, text: str) -> DetectionModel | None:
    """A copy of ``model`` whose convolution blocks have the activation of ``text``; None if all have it already.

    Blocks without an activation stay without one. Activations outside convolution blocks (that of BottleneckCSP, for
    one) stay as they are, as with the key ``activation`` of a configuration.
    """
    copy = deepcopy(model)
    changed = False
    for block in copy.modules():
        if not isinstance(block, Conv) or isinstance(block.act, nn.Identity):
            continue
        activation: Any = parse_activation(text)
        same = type(block.act) is type(activation) and module_text(block.act) == module_text(activation)
        changed = changed or not same
        block.act = activation
    if not changed:
        return None
    copy.yaml = describe(copy)
    return copy


def _refit(before: DetectionModel, after: DetectionModel, options: FinetuneOptions) -> None:
    """Re-fit all layers of ``after``, in place, so that their outputs before the norms are those of ``before``."""
    device = select_device(options.device.split(",")[0])
    data = check_dataset(options.data, splits=("train",))
    stride = grid_size(before)
    batches = repair_images(data, options.reconstruct, options.imgsz, stride, options.single_cls)
    structure = Structure.of(before.to(device))
    result = reconstruct(structure, after.to(device), {}, batches, all_differ=True)
    before.cpu(), after.cpu()
    result.of = "former"
    LOGGER.info(result.summary())


def _log_times(before: DetectionModel, after: DetectionModel, options: FinetuneOptions) -> None:
    """Log the time per image of both networks, on the processor."""
    now, was = map(statistics.median, time_networks(after, before, options.imgsz, options.runtime))
    LOGGER.info(
        f"--activation {options.activation} takes {now / was:.2f} of the time per image in {options.runtime} on one "
        f"thread of this processor: {now:.3g} ms instead of {was:.3g} ms, {options.imgsz} pixels (--runtime names "
        "another runtime)"
    )
