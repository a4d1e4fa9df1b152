"""The training loop of one epoch, with its hook points.

::

    for images, targets in loader:
        on_train_batch_start()
        warm-up: learning rates, momentum, accumulation          (first iterations only)
        forward, loss, backward                                  (autocast and loss scaling with AMP)
        every `accumulate` batches:
            unscale, clip to norm 10
            on_before_optimizer_step(state)                      plug-ins may change the true gradients here
            step, optimizer_step(state), on_before_zero_grad(state), zero the gradients, EMA
                                                                 (no step and no EMA if the loss scale has overflowed)
        on_train_batch_end(...)                                  (on the first rank)
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from torch import nn

from utils.commands.interrupts import obeying
from utils.distributed import average, from_first
from utils.errors import InputError
from utils.training.batch_step import batch_step
from utils.training.optim import BIASES, FUSED_DEVICES, overflow_flag
from utils.training.progress import Progress
from utils.training.state import TrainingState

MAX_GRADIENT_NORM = 10.0


class DivergedError(InputError):
    """The loss is no longer a number."""


def warm_up(state: TrainingState, batch_index: int) -> None:
    """Ramp accumulation, learning rates and momentum linearly; biases come down from ``warmup_bias_lr``."""
    progress = min(batch_index / state.warmup_batches, 1.0) if state.warmup_batches else 1.0

    def ramp(start: float, end: float) -> float:
        return start + (end - start) * progress

    state.accumulate = max(1, round(ramp(1, state.nominal_batch_size / state.batch_size)))
    for number, group in enumerate(state.optimizer.param_groups):
        start = state.hyp["warmup_bias_lr"] if number == BIASES else 0.0
        group["lr"] = ramp(start, group["initial_lr"] * state.run.learning_rate_factor(state.epoch))
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
    """Apply the accumulated gradients: unscale, clip, run the plug-ins, step, update the EMA.

    Gradients that have overflowed are dropped, and weights, optimizer and EMA stay as they are.
    """
    state.scaler.unscale_(state.optimizer)
    state.overflow = overflow_flag(state.scaler, state.optimizer)
    foreach = True if state.device.type in FUSED_DEVICES else None  # None lets torch decide
    nn.utils.clip_grad_norm_(state.model.parameters(), max_norm=MAX_GRADIENT_NORM, foreach=foreach)
    state.callbacks.run("on_before_optimizer_step", state)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.callbacks.run("optimizer_step", state)
    state.callbacks.run("on_before_zero_grad", state)
    state.optimizer.zero_grad(set_to_none=state.batch_step is None or not state.batch_step.keeps_gradients)
    state.ema.update(state.model, state.overflow)
    state.last_step = batch_index
    state.pending_batches = 0


def train_one_epoch(state: TrainingState) -> np.ndarray | None:
    """Train ``state.model`` for one pass over the loader.

    Returns:
        The mean box, objectness and class loss (3,), or None when a callback asked to stop.
    """
    run, callbacks, loader = state.run, state.callbacks, state.loader
    state.model.train()
    callbacks.run("on_train_epoch_start")
    if state.batch_step is None:
        state.batch_step = batch_step(state)
    step = state.batch_step
    mean_losses = torch.zeros(3, device=run.device)
    progress = Progress(state)
    for number, (pixels, targets, paths, _) in enumerate(obeying(progress.batches)):
        callbacks.run("on_train_batch_start")
        batch_index = number + len(loader) * state.epoch
        if batch_index <= state.warmup_batches:
            warm_up(state, batch_index)
        images = step.prepare(pixels)
        if run.options.multi_scale:
            images = random_size(images, run.image_size, run.grid_size, run.random_of_batch(batch_index))
        # The last batch steps in any case, so that no gradient is lost at the end of an epoch
        is_last = number + 1 == len(loader)
        steps = batch_index - state.last_step >= state.accumulate or is_last
        items = step(images, targets, steps)
        state.pending_batches += 1
        if steps:
            optimizer_step(state, batch_index)

        mean_losses = (mean_losses * number + items) / (number + 1)
        progress.show(mean_losses, len(targets), images.shape[-1], is_last)
        if run.is_main:
            callbacks.run("on_train_batch_end", batch_index, state.model, images, targets, paths, run.plots)
        if callbacks.stop_training and run.world.size == 1:
            return None
    progress.end_epoch()
    if from_first(callbacks.stop_training):  # several ranks stop together, at the end of an epoch
        return None
    losses = average(mean_losses).cpu().numpy()
    if not np.isfinite(losses).all():
        raise DivergedError(
            f"the loss became {losses.sum()} in epoch {state.epoch}; the checkpoint of the epoch before is intact: "
            "lower lr0 (and --sr in sparse training) or check the labels"
        )
    return losses
