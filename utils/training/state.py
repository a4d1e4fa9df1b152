"""Everything alive during a training run, and how it is made of the options."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from utils.callbacks import Callbacks
from utils.errors import InputError
from utils.loss import ComputeLoss
from utils.training.batch_step import BatchStep
from utils.training.optim import ModelEMA, linear_schedule, one_cycle, smart_optimizer
from utils.training.options import TrainOptions

NOMINAL_BATCH_SIZE = 64  # gradients are accumulated up to about this many images
SHORTEST_WARMUP = 100  # batches, as published
QUAD_FACTOR = 4  # an image made of four counts for four


@dataclass
class TrainingState:
    """Everything alive during a run; ``on_training_ready`` and ``on_before_optimizer_step`` hand it to plug-ins."""

    model: nn.Module
    ema: ModelEMA
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    compute_loss: Callable  # (raw heads, targets, images) -> (total, items); see loss.ComputeLoss
    loader: Any
    callbacks: Callbacks
    device: torch.device
    hyp: dict[str, Any]  # with the gains scaled to this run
    learning_rate_factor: Callable[[float], float]  # epoch -> share of the initial rate
    epochs: int
    batch_size: int  # of all processes together
    image_size: int  # pixels
    grid_size: int  # the largest stride; image sizes are multiples of it
    forward: Callable[[torch.Tensor], Any]  # the model, in data-parallel training inside its wrapper
    autocast_dtype: torch.dtype | None = None  # of mixed precision; None computes in full precision
    nominal_batch_size: int = NOMINAL_BATCH_SIZE  # images per optimizer step that accumulation comes up to
    ranks: int = 1  # processes that train together
    quad: bool = False  # every image is made of four
    multi_scale: bool = False
    seed: int = 0
    plots: bool = True
    is_main: bool = True  # whether this process reports; the others only compute
    writer: Any = None  # TensorBoard's SummaryWriter, None when it is not written
    grade: float = 0.0  # of the latest epoch, set by plug-ins: best.pt is the fittest epoch of the highest grade
    best_grade: float = 0.0
    plugins: dict[str, Any] = field(default_factory=dict)  # plain values that plug-ins find again when resumed
    data: dict[str, torch.Tensor] = field(default_factory=dict)  # records of the images, by split, on the first rank
    epoch: int = 0
    last_step: int = -1  # global batch index of the last optimizer step
    cuda_graph: bool = True  # whether batches may be replayed as CUDA graphs
    batch_step: BatchStep | None = None  # how batches are computed, from the first epoch on
    pending_batches: int = 0  # batches whose gradients the next optimizer step will apply
    overflow: torch.Tensor | None = None  # see optim.overflow_flag; of the latest optimizer step
    accumulate: int = field(init=False)
    warmup_batches: int = field(init=False)

    def __post_init__(self) -> None:
        """Derive the accumulation and the length of the warm-up (at least 100 batches, as published)."""
        self.accumulate = max(round(self.nominal_batch_size / self.batch_size), 1)
        self.warmup_batches = max(round(self.hyp["warmup_epochs"] * len(self.loader)), SHORTEST_WARMUP)

    @property
    def mixed_precision(self) -> bool:
        """Tell whether the forward pass runs under autocast."""
        return self.autocast_dtype is not None

    def skips_step(self) -> bool:
        """True from ``on_before_optimizer_step`` on if the loss scale has overflowed, so that the step does nothing.

        Plug-ins that keep count of steps ask for it; it makes the host wait for the device.
        """
        return self.overflow is not None and bool(self.overflow > 0)

    @property
    def loss_factor(self) -> int:
        """Return what the loss is multiplied by, so that its mean over the ranks is that of all images."""
        return self.ranks * (QUAD_FACTOR if self.quad else 1)

    def random_of_batch(self, batch_index: int) -> random.Random:
        """Random numbers of one batch: the same on every rank, and after a restart."""
        return random.Random(f"{self.seed} {batch_index}")


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


def build_state(
    model: nn.Module, options: TrainOptions, hyp: dict[str, Any], loader: Any, **known: Any
) -> TrainingState:
    """Make optimizer, schedule, moving average and loss for ``model``, which has its attributes and is on its device.

    ``known`` are the fields of TrainingState that the caller has: callbacks, device, sizes, ranks, plots, is_main.
    """
    decay = hyp["weight_decay"] * options.batch_size * accumulation(options.batch_size) / NOMINAL_BATCH_SIZE
    model.to(memory_format=torch.channels_last)  # before the optimizer, whose state then lies in memory alike
    optimizer = smart_optimizer(model, options.optimizer, hyp["lr0"], hyp["momentum"], decay)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    epochs, device = options.epochs, known["device"]
    schedule = one_cycle(1, hyp["lrf"], epochs) if options.cos_lr else linear_schedule(hyp["lrf"], epochs)
    precision = autocast_dtype(options.amp, device)
    average = ModelEMA(model)
    for module in model.modules():
        if isinstance(module, nn.SiLU | nn.Hardswish):
            module.inplace = False  # the gradient needs the input: in place, torch would first copy it
    return TrainingState(
        model=model, ema=average, optimizer=optimizer, compute_loss=ComputeLoss(model), loader=loader, hyp=hyp,
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16), learning_rate_factor=schedule,
        forward=model, autocast_dtype=precision, epochs=epochs, batch_size=options.batch_size,
        multi_scale=options.multi_scale, quad=options.quad, seed=options.seed,
        cuda_graph=not options.no_cuda_graph, **known,
    )  # fmt: skip
