"""The names that programs written for YOLOv5 v6.2 import from here; nothing in this project imports this file.

Most are re-exported from the module where they live. The small functions below have no other user.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from utils.checkpoint import de_parallel, intersect_dicts
from utils.device import select_device, time_sync
from utils.distributed import first_rank_first, parallel
from utils.errors import InputError
from utils.installation import import_own
from utils.log import LOGGER
from utils.model_info import count_parameters, fuse_conv_and_bn, module_gflops
from utils.model_info import log_info as model_info
from utils.other_versions import is_parallel, load_classifier
from utils.training.optim import ModelEMA, load_optimizer, smart_optimizer
from utils.training.stopping import EarlyStopping

__all__ = [
    "EarlyStopping",
    "ModelEMA",
    "copy_attr",
    "de_parallel",
    "fuse_conv_and_bn",
    "initialize_weights",
    "intersect_dicts",
    "is_parallel",
    "load_classifier",
    "model_info",
    "profile",
    "scale_img",  # noqa: F822
    "select_device",
    "smart_DDP",
    "smart_inference_mode",
    "smart_optimizer",
    "smart_resume",
    "time_sync",
    "time_synchronized",
    "torch_distributed_zero_first",
]

time_synchronized = time_sync  # its name up to v5.0

# Names that live above this folder: imported on first use, so that nothing here depends on them
_ELSEWHERE = {"scale_img": "models.tta"}


def __getattr__(name: str) -> Any:
    """Return a name of ``_ELSEWHERE``."""
    if name in _ELSEWHERE:
        return getattr(import_own(_ELSEWHERE[name]), name)
    if name == "TracedModel":
        raise ImportError("utils.torch_utils has no TracedModel, which is YOLOv7's: use torch.jit.trace, or export.py")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# -- modules -----------------------------------------------------------------------------------------------------------


def copy_attr(a: object, b: object, include: Collection[str] = (), exclude: Collection[str] = ()) -> None:
    """Copy the public attributes of ``b`` to ``a``: those in ``include`` (all if empty) but not in ``exclude``."""
    for name, value in vars(b).items():
        if (not include or name in include) and not name.startswith("_") and name not in exclude:
            setattr(a, name, value)


def initialize_weights(model: nn.Module) -> None:
    """Give batch norms a detection model's settings and make activations work in place; weights stay as they are."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.eps = 1e-3
            module.momentum = 0.03
        elif type(module) in (nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.SiLU):
            module.inplace = True  # type: ignore[assignment]


def smart_inference_mode(torch_1_9: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that turns gradients off: ``torch.inference_mode``, or ``torch.no_grad`` without ``torch_1_9``."""
    return torch.inference_mode() if torch_1_9 else torch.no_grad()


# -- training ----------------------------------------------------------------------------------------------------------


def smart_DDP(model: nn.Module) -> nn.Module:
    """The model in DistributedDataParallel; itself outside a process group."""
    return parallel(model, next(model.parameters()).device)


def smart_resume(
    ckpt: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    ema: ModelEMA | None = None,
    weights: str = "yolov5s.pt",
    epochs: int = 300,
    resume: bool = True,
) -> tuple[float, int, int]:
    """Load the optimizer and the averaged model of a checkpoint.

    Args:
        ckpt: what ``models.loading.load_checkpoint`` returns.
        optimizer, ema: receive the states in place, where the checkpoint has them.
        weights: its file, for messages.
        epochs: epochs of the run in all; if the checkpoint has had more, so many are added.
        resume: require a run that is not finished.

    Returns:
        (best fitness so far, first epoch to train, epochs in all).

    Raises:
        InputError: with ``resume``, the training has ended.
    """
    start_epoch = ckpt["epoch"] + 1
    best_fitness = 0.0
    saved = ckpt.get("optimizer")
    if saved is not None:
        load_optimizer(optimizer, saved)
        best_fitness = ckpt["best_fitness"]
    average = ckpt.get("ema")
    if average is not None and ema is not None:
        ema.updates = ckpt["updates"]
        ema.ema.load_state_dict(average.float().state_dict())
    if resume and start_epoch <= 0:
        raise InputError(f"the training of {weights} has ended: start a new one with --weights {weights}")
    if epochs < start_epoch:
        LOGGER.info(f"{weights} has been trained for {ckpt['epoch']} epochs: {epochs} more are added")
        epochs += ckpt["epoch"]
    return best_fitness, start_epoch, epochs


@contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """Let the first process run the block before the others; ``local_rank`` is v6.2's parameter, without effect."""
    with first_rank_first():
        yield


# -- measurements ------------------------------------------------------------------------------------------------------


def profile(
    input: Tensor | Sequence[Tensor],
    ops: nn.Module | Callable[[Tensor], Tensor] | Sequence[nn.Module | Callable[[Tensor], Tensor]],
    n: int = 10,
    device: str | torch.device | None = None,
) -> list[list[Any] | None]:
    """Log and return the cost of operations on inputs, mean of ``n`` passes.

    Returns:
        For each input and operation [parameters, GFLOPs, GB reserved on the GPU, forward ms, backward ms, shape of the
        input, shape of the output]; None where the operation fails. Without a gradient the backward time is nan.
    """
    target = device if isinstance(device, torch.device) else select_device(device)
    titles = ("params", "GFLOPs", "GPU (GB)", "forward ms", "backward ms", "input", "output")
    LOGGER.info("%12s%12s%12s%14s%14s%24s%24s", *titles)
    rows: list[list[Any] | None] = []
    for sample in [input] if isinstance(input, Tensor) else input:
        for operation in ops if isinstance(ops, (list, tuple)) else [ops]:
            try:
                row = _profile_one(sample.to(target).requires_grad_(), operation, n)
                LOGGER.info("%12d%12.4g%12.3f%14.4g%14.4g%24s%24s", *row)
            except (RuntimeError, TypeError, ValueError) as error:
                LOGGER.warning(f"{type(operation).__name__} cannot be profiled: {error}")
                row = None
            rows.append(row)
    return rows


def _profile_one(sample: Tensor, operation: Any, repeats: int) -> list[Any]:
    module = operation.to(sample.device) if isinstance(operation, nn.Module) else None
    forward = backward = 0.0
    for _ in range(repeats):
        started = time_sync()
        output = operation(sample)
        between = time_sync()
        total = output.sum() if isinstance(output, Tensor) else sum(part.sum() for part in output)
        if isinstance(total, Tensor) and total.requires_grad:
            total.backward()
            backward += (time_sync() - between) * 1000 / repeats
        else:
            backward = float("nan")
        forward += (between - started) * 1000 / repeats
    reserved = torch.cuda.memory_reserved(sample.device) / 1e9 if sample.device.type == "cuda" else 0.0
    parameters = count_parameters(module) if module is not None else 0
    gflops = module_gflops(module, sample) if module is not None else 0.0
    shape = tuple(output.shape) if isinstance(output, Tensor) else "list"
    return [parameters, gflops, reserved, forward, backward, tuple(sample.shape), shape]
