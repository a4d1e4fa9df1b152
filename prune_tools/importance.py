"""Scores of channels: how much is lost when one goes. Higher stays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from prune_tools.groups import ChannelGroup
from utils.errors import InputError

REDUCTIONS = {
    "mean": lambda scores: scores.mean(0),
    "sum": lambda scores: scores.sum(0),
    "max": lambda scores: scores.amax(0),
}


def gamma_scores(model: nn.Module, groups: Sequence[ChannelGroup], reduction: str = "mean") -> dict[str, torch.Tensor]:
    """|gamma| of the batch norms (Liu et al., Network Slimming, ICCV 2017), per group one value per channel.

    Where several norms scale a channel, ``reduction`` (mean, sum, max) makes one score of theirs.

    Raises:
        InputError: a gamma that is not a finite number, by layer and channel.
    """
    modules = dict(model.named_modules())
    scores = {}
    for group in groups:
        rows = []
        for member in group.norms:
            gamma = modules[member.path].weight.detach().abs().float().cpu()[torch.as_tensor(member.indices)]
            if not gamma.isfinite().all():
                channel = int(member.indices[int((~gamma.isfinite()).nonzero()[0])])
                raise InputError(
                    f"gamma of channel {channel} in {member.path} is not a finite number: "
                    "the training has diverged, prune an earlier checkpoint or train again with a lower rate"
                )
            rows.append(gamma)
        scores[group.name] = REDUCTIONS[reduction](torch.stack(rows))
    return scores
