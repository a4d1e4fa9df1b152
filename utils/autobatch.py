"""The largest batch that a GPU has room for (``--batch-size -1``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from utils.callbacks import Callbacks
from utils.commands.options import AUTO_BATCH
from utils.errors import InputError
from utils.log import LOGGER, colorstr
from utils.training.options import TrainOptions
from utils.training.state import autocast_dtype

DEFAULT_BATCH = 16  # without a GPU
MEMORY_SHARE = 0.9  # of the free memory that the batch may fill
TRIED_SIZES = (1, 2, 4, 8, 16)
REPEATS = 3
GIGABYTE = 1e9


def resolve_batch_size(
    options: TrainOptions, model: nn.Module, image_size: int, device: torch.device, callbacks: Callbacks
) -> TrainOptions:
    """``options`` with a batch size: --batch-size -1 becomes the largest that fits, passed to ``on_params_update``."""
    if options.batch_size != AUTO_BATCH:
        return options
    batch_size = auto_batch_size(model, image_size, device, autocast_dtype(options.amp, device))
    callbacks.run("on_params_update", {"batch_size": batch_size})
    return replace(options, batch_size=batch_size)


def auto_batch_size(
    model: nn.Module, image_size: int, device: torch.device, precision: torch.dtype | None = None
) -> int:
    """Images per batch for training ``model`` on ``device``: measured on a GPU, 16 elsewhere.

    Memory is measured in training steps on a few blank images and is taken to grow linearly with the batch size; the
    result fills nine tenths of the free memory. ``precision`` is that of mixed precision, None without it.
    """
    label = colorstr("AutoBatch: ")
    if device.type != "cuda":
        LOGGER.info(f"{label}there is no GPU memory to measure: using --batch-size {DEFAULT_BATCH}")
        return DEFAULT_BATCH
    torch.cuda.empty_cache()
    free = float(torch.cuda.mem_get_info(device)[0])
    sizes, used = [], []
    for size in TRIED_SIZES:
        try:
            used.append(_memory_of_step(model, size, image_size, device, precision))
            sizes.append(size)
        except torch.cuda.OutOfMemoryError:
            break
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    batch = fitting_batch_size(sizes, used, free, failed=len(sizes) < len(TRIED_SIZES))
    LOGGER.info(f"{label}using --batch-size {batch}, of {free / GIGABYTE:.1f} GB free on {device}")
    return batch


def check_train_batch_size(model: nn.Module, imgsz: int = 640, amp: bool = True) -> int:
    """v6.2's form of ``auto_batch_size``: on the device of ``model``, in mixed precision if ``amp``."""
    device = next(model.parameters()).device
    return auto_batch_size(model, imgsz, device, autocast_dtype("auto" if amp else "off", device))


def fitting_batch_size(sizes: Sequence[int], used: Sequence[float], free: float, failed: bool = False) -> int:
    """Largest batch whose memory, by the line through (``sizes``, ``used`` bytes), is ``MEMORY_SHARE`` of ``free``.

    With ``failed`` the size after the last one did not fit, so the result is at most the last. Raises InputError if not
    even one image fits.
    """
    if not sizes:
        raise InputError("not even one image fits the GPU's memory: choose a smaller --imgsz or a smaller model")
    if len(sizes) == 1:
        return sizes[0]
    slope, start = np.polyfit(sizes, used, deg=1)
    largest = int((MEMORY_SHARE * free - start) / slope) if slope > 0 else sizes[-1]
    return max(min(largest, sizes[-1]) if failed else largest, 1)


def _memory_of_step(
    model: nn.Module, size: int, image_size: int, device: torch.device, precision: torch.dtype | None
) -> float:
    """Peak memory in bytes of training steps with ``size`` images; the model's batch norms stay as they are."""
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    was_training = model.training
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    try:
        for _ in range(REPEATS):
            images = torch.zeros(size, 3, image_size, image_size, device=device)
            with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
                outputs = model.train()(images)
            torch.stack([output.float().mean() for output in outputs]).sum().backward()
        return float(torch.cuda.max_memory_reserved(device) - before)
    finally:
        model.train(was_training)
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
