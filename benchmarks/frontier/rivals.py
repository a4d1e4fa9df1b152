"""Torch-Pruning (pip install torch-pruning) as a rival: its pruners on our networks, the result as our checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from benchmarks.frontier.costs import ROUNDING, SIZE
from benchmarks.frontier.methods import IN_STEPS
from models.widths import measure_widths
from models.yolo import DetectionModel
from prune_tools.make_plan import with_hyperparameters
from prune_tools.opening import Inputs
from prune_tools.options import PruneOptions
from prune_tools.planning.options import SCORE_IMAGES
from prune_tools.training_images import read_training_images
from prune_tools.yolo_pruned import record_widths, save_model
from utils.commands.packages import is_installed, require
from utils.dataset.labels import find_images
from utils.errors import InputError
from utils.loss import ComputeLoss
from utils.model_info import gflops, grid_size

RATIOS = [step / 50 for step in range(1, 50)]  # pruning ratios that are tried
FINE_STEPS = 20  # between two of these ratios
MODULE, PACKAGE = "torch_pruning", "torch-pruning"


def prune_by_torch_pruning(inputs: Inputs[PruneOptions], variant: str, budget: float, file: Path) -> float:
    """Prune at the lowest global ratio that keeps at most ``budget`` GFLOPs, and write the checkpoint ``file``.

    Returns:
        Passes over the training images that the importance took.

    Raises:
        InputError: the package is missing, or no ratio reaches the budget.
    """
    package = require(MODULE, "method B7", PACKAGE, listed="")
    model, seen = inputs.model, 0.0
    gradients: dict[str, torch.Tensor] = {}
    if variant == "taylor":
        gradients, seen = gradients_of_loss(inputs)

    def pruned(ratio: float) -> DetectionModel:
        return _pruned(package, model, variant, ratio, inputs.options.imgsz, gradients)

    network = _lowest_ratio(pruned, budget)
    record_widths(network, measure_widths(network, model))
    save_model(network.requires_grad_(False), file, {})
    return seen


def missing_package() -> str:
    """Remedy where Torch-Pruning is not installed; '' where it is."""
    return "" if is_installed(MODULE) else f"missing: pip install {PACKAGE}"


def _lowest_ratio(pruned: Callable[[float], DetectionModel], budget: float) -> DetectionModel:
    """The network of the lowest ratio that is within ``budget`` GFLOPs.

    No bisection: the operations need not fall with the ratio, as layers that would be removed whole stay whole.
    """
    previous, least = 0.0, float("inf")
    for ratio in RATIOS:
        now = gflops(pruned(ratio), SIZE) or 0.0
        if now <= budget:
            break
        previous, least = ratio, min(least, now)
    else:
        raise InputError(f"no ratio keeps less than {least:.3g} GFLOPs")
    for step in range(1, FINE_STEPS + 1):
        network = pruned(previous + (ratio - previous) * step / FINE_STEPS)
        if (gflops(network, SIZE) or 0.0) <= budget:
            break
    return network


def _pruned(
    package: Any, model: DetectionModel, variant: str, ratio: float, image_size: int, gradients: dict[str, torch.Tensor]
) -> DetectionModel:
    """A copy of ``model`` without ``ratio`` of the channels of the whole network, by one of VARIANTS."""
    copy: Any = deepcopy(model).requires_grad_(True)
    for name, parameter in copy.named_parameters():
        parameter.grad = gradients[name].clone() if name in gradients else None
    importances = {
        "bn-scale": package.importance.BNScaleImportance,
        "group-norm": package.importance.GroupMagnitudeImportance,
        IN_STEPS: package.importance.GroupMagnitudeImportance,
        "taylor": package.importance.GroupTaylorImportance,
    }
    pruner = package.pruner.MetaPruner(
        copy,
        torch.zeros(1, 3, image_size, image_size, device=next(copy.parameters()).device),
        importance=importances[variant](),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[*copy.model[-1].m],
        round_to=ROUNDING,
    )
    pruner.step()
    return copy


def gradients_of_loss(inputs: Inputs[PruneOptions]) -> tuple[dict[str, torch.Tensor], float]:
    """Gradients of the loss on training images by name of the parameter, and the share of the images that was seen."""
    options, data = inputs.options, inputs.data
    model = with_hyperparameters(deepcopy(inputs.model), options.imgsz).eval().requires_grad_(True)
    device = next(model.parameters()).device
    compute_loss, count = ComputeLoss(model), 0
    for images, labels, _ in read_training_images(
        data, SCORE_IMAGES, options.imgsz, grid_size(model), options.single_cls
    ):
        heads = model(images.to(device).float() / 255)[1]
        compute_loss(heads, labels.to(device))[0].sum().backward()
        count += len(images)
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return gradients, count / len(find_images(data["train"]))
