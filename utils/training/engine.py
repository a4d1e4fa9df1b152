"""The training loop of one epoch, with its hook points.

::

    for images, targets in loader:
        on_train_batch_start()
        warm-up: learning rates, momentum, accumulation          (first iterations only)
        forward, loss, backward                                  (autocast and loss scaling with AMP)
        every `accumulate` batches:
            unscale, clip to norm 10
            on_before_optimizer_step(state)                      plug-ins may change the true gradients here
            step, optimizer_step(), on_before_zero_grad(), zero the gradients, EMA
                                                                 (no step and no EMA if the loss scale has overflowed)
        on_train_batch_end(...)                                  (on the first rank)
"""

from __future__ import annotations

import math
import random
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from utils.commands.interrupts import obeying
from utils.distributed import average, from_first
from utils.errors import InputError
from utils.log import LOGGER, tqdm_is_quiet
from utils.training.batch_step import batch_step
from utils.training.optim import FUSED_DEVICES, overflow_flag
from utils.training.state import TrainingState

MAX_GRADIENT_NORM = 10.0
BAR_SECONDS = 0.3  # between two looks at the losses, for which the GPU has to finish what it was given
PROGRESS_COLUMNS = ("Epoch", "gpu_mem", "box", "obj", "cls", "labels", "img_size")


class DivergedError(InputError):
    """The loss is no longer a number."""


def warm_up(state: TrainingState, batch_index: int) -> None:
    """Ramp accumulation, learning rates and momentum linearly; biases come down from ``warmup_bias_lr``."""
    progress = min(batch_index / state.warmup_batches, 1.0) if state.warmup_batches else 1.0

    def ramp(start: float, end: float) -> float:
        return start + (end - start) * progress

    state.accumulate = max(1, round(ramp(1, state.nominal_batch_size / state.batch_size)))
    for number, group in enumerate(state.optimizer.param_groups):
        start = state.hyp["warmup_bias_lr"] if number == 0 else 0.0
        group["lr"] = ramp(start, group["initial_lr"] * state.learning_rate_factor(state.epoch))
        if "momentum" in group:
            group["momentum"] = ramp(state.hyp["warmup_momentum"], state.hyp["momentum"])


def random_size(images: torch.Tensor, image_size: int, grid_size: int, chance: random.Random) -> torch.Tensor:
    """``images`` (B, 3, H, W) resized by a random factor of 0.5 to 1.5, both sides multiples of ``grid_size``.

    The longer side keeps at least two cells: batch norm needs more than the one value of a single image's single cell.
    """
    longest = chance.randrange(image_size // 2, image_size * 3 // 2 + grid_size) // grid_size * grid_size
    ratio = max(longest, 2 * grid_size) / max(images.shape[2:])
    if ratio == 1:
        return images
    size = [math.ceil(side * ratio / grid_size) * grid_size for side in images.shape[2:]]
    return nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)


def optimizer_step(state: TrainingState, batch_index: int) -> None:
    """Apply the accumulated gradients: unscale, clip, let plug-ins act on them, step, follow with the EMA.

    Gradients that have overflowed are dropped, and weights, optimizer and EMA stay as they are.
    """
    state.scaler.unscale_(state.optimizer)
    state.overflow = overflow_flag(state.scaler, state.optimizer)
    joined = True if state.device.type in FUSED_DEVICES else None  # all gradients at once, else where torch thinks fit
    nn.utils.clip_grad_norm_(state.model.parameters(), max_norm=MAX_GRADIENT_NORM, foreach=joined)
    state.callbacks.run("on_before_optimizer_step", state)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.callbacks.run("optimizer_step")
    state.callbacks.run("on_before_zero_grad")
    state.optimizer.zero_grad(set_to_none=state.batch_step is None or not state.batch_step.keeps_gradients)
    state.ema.update(state.model, state.overflow)
    state.last_step, state.pending_batches = batch_index, 0


def gpu_memory(device: torch.device) -> str:
    """Memory reserved on the GPU, as shown in the progress bar."""
    return f"{torch.cuda.memory_reserved(device) / 1e9 if device.type == 'cuda' else 0:.3g}G"


def progress_bar(loader: Any) -> tqdm:
    """The loader with a bar on terminals; a log file gets one line per epoch instead."""
    return tqdm(loader, total=len(loader), disable=None, bar_format="{l_bar}{bar:10}{r_bar}")


def train_one_epoch(state: TrainingState) -> np.ndarray | None:
    """Train ``state.model`` for one pass over the loader.

    Returns:
        The mean box, objectness and class loss (3,), or None when a callback asked to stop.
    """
    state.model.train()
    state.callbacks.run("on_train_epoch_start")
    step = state.batch_step = state.batch_step or batch_step(state)
    mean_losses = torch.zeros(3, device=state.device)
    targets, images = torch.zeros(0, 6), torch.zeros(0, 3, 0, 0)
    if state.epoch == 0 or not tqdm_is_quiet():
        LOGGER.info("\n" + "%10s" * len(PROGRESS_COLUMNS), *PROGRESS_COLUMNS)
    bar, shown = progress_bar(state.loader) if state.is_main else state.loader, -math.inf
    for number, (images, targets, paths, _) in enumerate(obeying(bar)):
        state.callbacks.run("on_train_batch_start")
        batch_index = number + len(state.loader) * state.epoch
        if batch_index <= state.warmup_batches:
            warm_up(state, batch_index)
        images = step.prepare(images)
        if state.multi_scale:
            images = random_size(images, state.image_size, state.grid_size, state.random_of_batch(batch_index))
        # The last batch steps in any case, so that no gradient is lost at the end of an epoch
        steps = batch_index - state.last_step >= state.accumulate or number + 1 == len(state.loader)
        items = step(images, targets, steps)
        state.pending_batches += 1
        if steps:
            optimizer_step(state, batch_index)

        mean_losses = (mean_losses * number + items) / (number + 1)
        if state.is_main:
            if not bar.disable and (time.monotonic() > shown + BAR_SECONDS or number + 1 == len(state.loader)):
                bar.set_description(progress_row(state, mean_losses, len(targets), images.shape[-1]))
                shown = time.monotonic()
            state.callbacks.run("on_train_batch_end", batch_index, state.model, images, targets, paths, state.plots)
        if state.callbacks.stop_training and state.ranks == 1:
            return None
    if tqdm_is_quiet():
        LOGGER.info(progress_row(state, mean_losses, len(targets), images.shape[-1]))
    if from_first(state.callbacks.stop_training):  # several ranks stop together, at the end of an epoch
        return None
    losses = average(mean_losses).cpu().numpy()
    if not np.isfinite(losses).all():
        raise DivergedError(
            f"the loss became {losses.sum()} in epoch {state.epoch}; the checkpoint of the epoch before is intact: "
            "lower lr0 (and --sr in sparse training) or check the labels"
        )
    return losses


def progress_row(state: TrainingState, losses: torch.Tensor, labels: int, width: int) -> str:
    """One row under PROGRESS_COLUMNS: epoch, GPU memory, the three mean losses, labels in the batch, image width."""
    head = f"{state.epoch}/{state.epochs - 1}", gpu_memory(state.device)
    return ("%10s" * 2 + "%10.4g" * 5) % (*head, *losses.tolist(), labels, width)
