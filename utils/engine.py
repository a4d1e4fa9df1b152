"""The training loop of one epoch, with its hook points.

::

    for images, targets in loader:
        on_train_batch_start()
        warm-up: learning rates, momentum, accumulation          (first iterations only)
        forward, loss, backward                                  (autocast and loss scaling with AMP)
        every `accumulate` batches:
            unscale, clip to norm 10
            on_before_optimizer_step(state)                      plug-ins may change the true gradients here
            step, EMA
        on_train_batch_end(...)
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from utils.callbacks import Callbacks
from utils.errors import InputError
from utils.log import LOGGER
from utils.optim import ModelEMA

NOMINAL_BATCH_SIZE = 64  # gradients are accumulated up to about this many images
MAX_GRADIENT_NORM = 10.0
PROGRESS_COLUMNS = ("Epoch", "gpu_mem", "box", "obj", "cls", "labels", "img_size")


@dataclass
class TrainingState:
    """Everything alive during a run; ``on_training_ready`` and ``on_before_optimizer_step`` hand it to plug-ins."""

    model: nn.Module
    ema: ModelEMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    compute_loss: Callable
    loader: Any
    callbacks: Callbacks
    device: torch.device
    hyp: dict[str, Any]  # with the gains scaled to this run
    learning_rate_factor: Callable[[float], float]  # epoch -> share of the initial rate
    epochs: int
    batch_size: int
    image_size: int  # pixels
    grid_size: int  # the largest stride; image sizes are multiples of it
    nominal_batch_size: int = NOMINAL_BATCH_SIZE  # images per optimizer step that accumulation comes up to
    multi_scale: bool = False
    plots: bool = True
    writer: Any = None  # TensorBoard's SummaryWriter, None when it is not written
    grade: float = 0.0  # of the latest epoch, set by plug-ins: best.pt is the fittest epoch of the highest grade
    best_grade: float = 0.0
    plugins: dict[str, Any] = field(default_factory=dict)  # plain values that plug-ins find again when resumed
    epoch: int = 0
    last_step: int = -1  # global batch index of the last optimizer step
    pending_batches: int = 0  # batches whose gradients the next optimizer step will apply
    accumulate: int = field(init=False)
    warmup_batches: int = field(init=False)

    def __post_init__(self) -> None:
        """Derive the accumulation and the length of the warm-up (at least 100 batches, as published)."""
        self.accumulate = max(round(self.nominal_batch_size / self.batch_size), 1)
        self.warmup_batches = max(round(self.hyp["warmup_epochs"] * len(self.loader)), 100)

    @property
    def mixed_precision(self) -> bool:
        """Whether the forward pass runs under autocast."""
        return self.scaler.is_enabled()


def warm_up(state: TrainingState, batch_index: int) -> None:
    """Ramp accumulation, learning rates and momentum linearly; biases come down from ``warmup_bias_lr``."""
    progress = min(batch_index / state.warmup_batches, 1.0)

    def ramp(start: float, end: float) -> float:
        return start + (end - start) * progress

    state.accumulate = max(1, round(ramp(1, state.nominal_batch_size / state.batch_size)))
    for number, group in enumerate(state.optimizer.param_groups):
        start = state.hyp["warmup_bias_lr"] if number == 0 else 0.0
        group["lr"] = ramp(start, group["initial_lr"] * state.learning_rate_factor(state.epoch))
        if "momentum" in group:
            group["momentum"] = ramp(state.hyp["warmup_momentum"], state.hyp["momentum"])


def random_size(images: torch.Tensor, image_size: int, grid_size: int) -> torch.Tensor:
    """``images`` (B, 3, H, W) resized by a random factor of 0.5 to 1.5, both sides multiples of ``grid_size``."""
    longest = random.randrange(image_size // 2, image_size * 3 // 2 + grid_size) // grid_size * grid_size
    ratio = longest / max(images.shape[2:])
    if ratio == 1:
        return images
    size = [math.ceil(side * ratio / grid_size) * grid_size for side in images.shape[2:]]
    return nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)


def prepare_images(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 images (B, 3, H, W) -> float in 0..1 on ``device``, channels last (convolutions on CPUs gain a quarter)."""
    images = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    return images.float().div_(255)


def optimizer_step(state: TrainingState, batch_index: int) -> None:
    """Apply the accumulated gradients: unscale, clip, let plug-ins act on them, step, follow with the EMA."""
    state.scaler.unscale_(state.optimizer)
    nn.utils.clip_grad_norm_(state.model.parameters(), max_norm=MAX_GRADIENT_NORM)
    state.callbacks.run("on_before_optimizer_step", state)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.ema.update(state.model)
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
    mean_losses = torch.zeros(3, device=state.device)
    row = ""
    if state.epoch == 0 or not tqdm_is_quiet():
        LOGGER.info("\n" + "%10s" * len(PROGRESS_COLUMNS), *PROGRESS_COLUMNS)
    bar = progress_bar(state.loader)
    for number, (images, targets, paths, _) in enumerate(bar):
        state.callbacks.run("on_train_batch_start")
        batch_index = number + len(state.loader) * state.epoch
        if batch_index <= state.warmup_batches:
            warm_up(state, batch_index)
        images = prepare_images(images, state.device)
        if state.multi_scale:
            images = random_size(images, state.image_size, state.grid_size)
        with torch.autocast(state.device.type, enabled=state.mixed_precision):
            loss, items = state.compute_loss(state.model(images), targets.to(state.device))
        state.scaler.scale(loss).backward()
        state.pending_batches += 1

        # The last batch steps in any case, so that no gradient is lost at the end of an epoch
        if batch_index - state.last_step >= state.accumulate or number + 1 == len(state.loader):
            optimizer_step(state, batch_index)

        mean_losses = (mean_losses * number + items) / (number + 1)
        row = progress_row(state, mean_losses, len(targets), images.shape[-1])
        bar.set_description(row)
        state.callbacks.run("on_train_batch_end", batch_index, state.model, images, targets, paths, state.plots)
        if state.callbacks.stop_training:
            return None
    if tqdm_is_quiet():
        LOGGER.info(row)
    losses = mean_losses.cpu().numpy()
    if not np.isfinite(losses).all():
        raise InputError(
            f"the loss became {losses.sum()} in epoch {state.epoch}; the checkpoint of the epoch before is intact: "
            "lower lr0 (and --sr in sparse training) or check the labels"
        )
    return losses


def progress_row(state: TrainingState, losses: torch.Tensor, labels: int, width: int) -> str:
    """One row under PROGRESS_COLUMNS: epoch, GPU memory, the three mean losses, labels in the batch, image width."""
    head = f"{state.epoch}/{state.epochs - 1}", gpu_memory(state.device)
    return ("%10s" * 2 + "%10.4g" * 5) % (*head, *losses.tolist(), labels, width)


def tqdm_is_quiet() -> bool:
    """Whether progress bars are hidden because their output is no terminal."""
    return not sys.stderr.isatty()
