"""One training run: ``Run`` has its constants, ``TrainingState`` all that changes from batch to batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.callbacks import Callbacks
from utils.distributed import World
from utils.errors import InputError
from utils.loggers import Loggers
from utils.loss import ComputeLoss
from utils.training.batch_step import BatchStep
from utils.training.epoch_loader import EpochLoader
from utils.training.optim import ModelEMA, linear_schedule, one_cycle, smart_optimizer
from utils.training.options import TrainOptions
from utils.training.stopping import BestEpoch

NOMINAL_BATCH_SIZE = 64  # gradients are accumulated up to about this many images
SHORTEST_WARMUP = 100  # batches, as published
QUAD_FACTOR = 4  # an image made of four counts for four


@dataclass(frozen=True)
class Run:
    """The constants of a training run.

    Attributes:
        options: those of the command, with the batch size and --single-cls resolved.
        data: the checked data set.
        names: of the classes.
        hyp: hyperparameters, the loss gains scaled to this run; ``unscaled_hyp``: the same as they were given.
        image_size: pixels of the longer side, a multiple of ``grid_size``.
        grid_size: pixels; the largest stride of the head, at least 32.
        device, world: of this process.
        callbacks: the actions at the hooks.
    """

    options: TrainOptions
    data: dict[str, Any]
    names: list[str]
    hyp: dict[str, Any]
    unscaled_hyp: dict[str, Any]
    image_size: int
    grid_size: int
    device: torch.device
    world: World = field(default_factory=World)
    callbacks: Callbacks = field(default_factory=Callbacks)

    @property
    def is_main(self) -> bool:
        """True in the process that validates, reports and writes; the others only compute."""
        return self.world.is_main

    @property
    def plots(self) -> bool:
        """True if pictures are drawn."""
        return not self.options.noplots

    @cached_property
    def autocast_dtype(self) -> torch.dtype | None:
        """The type of mixed precision; None computes in full precision."""
        return autocast_dtype(self.options.amp, self.device)

    @cached_property
    def learning_rate_factor(self) -> Callable[[float], float]:
        """The schedule: epoch -> share of the initial learning rate."""
        final = self.hyp["lrf"]
        if self.options.cos_lr:
            return one_cycle(1, final, self.options.epochs)
        return linear_schedule(final, self.options.epochs)

    @property
    def loss_factor(self) -> int:
        """Factor of the loss that makes its mean over the ranks that of all images."""
        return self.world.size * (QUAD_FACTOR if self.options.quad else 1)

    def random_of_batch(self, batch_index: int) -> random.Random:
        """Random numbers of one batch: the same on every rank, and after a restart."""
        return random.Random(f"{self.options.seed} {batch_index}")


@dataclass
class TrainingState:
    """Everything that changes during a training run.

    Plug-ins get it from ``on_training_ready`` on. They may replace ``compute_loss`` and ``optimizer``, and set
    ``accumulate``, ``nominal_batch_size``, ``warmup_batches`` and ``grade``.

    Attributes:
        model: the network being trained; ``ema``: the moving average of its weights, which is validated and saved.
        compute_loss: (raw heads, targets, images) -> (total, items); see loss.ComputeLoss.
        loader: of the training images.
        forward: the model, in data-parallel training inside its wrapper.
        nominal_batch_size: images per optimizer step that accumulation aims at.
        accumulate: batches per optimizer step.
        warmup_batches: length of the warm-up.
        grade: of the latest epoch; best.pt is chosen by grade, then by fitness.
        best: the best epoch so far.
        plugins: records of plug-ins by name, plain values, saved in checkpoints; see ``Plugin.state_dict``.
        image_records: records of the images by split, on the first rank.
        maps: mAP50-95 of each class in the last validation, empty before the first.
        first_epoch: the epoch that this process starts with, above 0 if it resumes a run.
        last_step: global batch index of the last optimizer step.
        pending_batches: batches whose gradients the next optimizer step applies.
        overflow: see optim.overflow_flag; of the latest optimizer step.
        batch_step: how batches are computed, from the first epoch on.
        loggers: on the first rank.
        folder: of the run.
    """

    run: Run
    model: nn.Module
    ema: ModelEMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    compute_loss: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    loader: EpochLoader
    forward: Callable[[torch.Tensor], Any]
    accumulate: int
    warmup_batches: int
    best: BestEpoch
    nominal_batch_size: int = NOMINAL_BATCH_SIZE
    grade: float = 0.0
    plugins: dict[str, Any] = field(default_factory=dict)
    image_records: dict[str, torch.Tensor] = field(default_factory=dict)
    maps: list[float] = field(default_factory=list)
    first_epoch: int = 0
    epoch: int = 0
    last_step: int = -1
    pending_batches: int = 0
    overflow: torch.Tensor | None = None
    batch_step: BatchStep | None = None
    loggers: Loggers | None = None
    folder: Path = field(default_factory=Path)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.run.device

    @property
    def hyp(self) -> dict[str, Any]:
        """Hyperparameters, the loss gains scaled to this run."""
        return self.run.hyp

    @property
    def epochs(self) -> int:
        """Number of epochs of the whole run."""
        return self.run.options.epochs

    @property
    def batch_size(self) -> int:
        """Images per batch, of all processes together."""
        return self.run.options.batch_size

    @property
    def callbacks(self) -> Callbacks:
        """The actions at the hooks."""
        return self.run.callbacks

    @property
    def writer(self) -> Any:
        """TensorBoard's SummaryWriter, opened at first use; None where no event file is written."""
        return None if self.loggers is None else self.loggers.writer

    def skips_step(self) -> bool:
        """True from ``on_before_optimizer_step`` on if the loss scale has overflowed, so that the step does nothing.

        Plug-ins that count steps ask for it; it makes the host wait for the device.
        """
        return self.overflow is not None and bool(self.overflow > 0)


def accumulation(batch_size: int) -> int:
    """Batches whose gradients are added up for one optimizer step."""
    return max(round(NOMINAL_BATCH_SIZE / batch_size), 1)


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """The type that ``--amp`` means on ``device``, None for full precision.

    ``on`` is what torch prefers there: float16 on CUDA, bfloat16 on CPUs; ``auto`` is on for CUDA and off elsewhere.
    Raises InputError for float16 on a CPU, which would be slower than full precision.
    """
    if amp == "off" or (amp == "auto" and device.type != "cuda"):
        return None
    if amp == "float16" and device.type == "cpu":
        raise InputError("--amp float16 is for GPUs: CPUs compute mixed precision in bfloat16")
    named = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    return named.get(amp) or torch.get_autocast_dtype(device.type)


def build_state(run: Run, model: nn.Module, loader: EpochLoader) -> TrainingState:
    """Make optimizer, moving average and loss for ``model``, which has its attributes and is on its device."""
    options = run.options
    accumulate = accumulation(options.batch_size)
    decay = run.hyp["weight_decay"] * options.batch_size * accumulate / NOMINAL_BATCH_SIZE
    model.to(memory_format=torch.channels_last)  # before the optimizer, whose state then has the same layout
    optimizer = smart_optimizer(model, options.optimizer, run.hyp["lr0"], run.hyp["momentum"], decay)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    average = ModelEMA(model)
    for module in model.modules():
        if isinstance(module, nn.SiLU | nn.Hardswish):
            module.inplace = False  # the gradient needs the input: in place, torch would first copy it
    return TrainingState(
        run=run,
        model=model,
        ema=average,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(run.device.type, enabled=run.autocast_dtype == torch.float16),
        compute_loss=ComputeLoss(model),
        loader=loader,
        forward=model,
        accumulate=accumulate,
        warmup_batches=max(round(run.hyp["warmup_epochs"] * len(loader)), SHORTEST_WARMUP),
        best=BestEpoch(options.patience),
    )
