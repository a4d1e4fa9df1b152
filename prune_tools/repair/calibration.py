"""Re-estimate batch-norm statistics on training images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from tqdm import tqdm

from prune_tools.training_images import Batch
from utils.log import LOGGER


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Replace running mean and variance of every batch norm by those of ``batches``, in place.

    All batches have equal weight (a cumulative average). Everything else runs in evaluation mode; the model is left in
    it.
    """
    weight = next(model.parameters())
    norms = [module for module in model.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
        norm.train()
    for batch in tqdm(batches, "Estimating batch norm", disable=None, leave=False):
        model(batch.images.to(weight.device).to(weight.dtype) / 255)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    LOGGER.info(f"{len(norms)} batch norms re-estimated on {sum(len(batch.images) for batch in batches)} images")
