"""Scores of channels: how much is lost when one is removed. The highest are kept.

A score is a function of ``Material`` and the groups; ``SCORES`` lists them by the name that ``--score`` takes. Coupled
channels get one score, from all their norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from prune_tools.channels.groups import ChannelGroup, Member
from utils.errors import InputError, short_repr
from utils.loss import ComputeLoss

Batch = tuple[torch.Tensor, torch.Tensor]  # images (B, 3, H, W) in 0..1, labels (T, 6)


@dataclass
class Material:
    """The inputs of scores.

    Attributes:
        model: the network before pruning; it is not changed.
        batches: training batches, for the scores in ``NEEDS_IMAGES``; the model's ``hyp`` holds the gains of the loss.
        seed: seed of the random score.
    """

    model: nn.Module
    batches: Iterable[Batch] = ()
    seed: int = 0
    modules: dict[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        """Look the modules up once."""
        self.modules = dict(self.model.named_modules())

    def gammas(self, group: ChannelGroup) -> torch.Tensor:
        """|gamma| of a group, (N, C): a row for each of its N norms.

        Raises:
            InputError: a gamma is not a finite number; names layer and channel.
        """
        rows = []
        for member in group.norms:
            gamma = _of_member(self.modules[member.path].weight, member).abs()
            if not gamma.isfinite().all():
                channel = int(member.indices[int((~gamma.isfinite()).nonzero()[0])])
                raise InputError(
                    f"gamma of channel {channel} in {member.path} is not a finite number: "
                    "the training has diverged, prune an earlier checkpoint or train again with a lower rate"
                )
            rows.append(gamma)
        return torch.stack(rows)


Scores = dict[str, torch.Tensor]  # by name of the group, (C,) on the CPU


def _of_member(values: torch.Tensor | nn.Module, member: Member) -> torch.Tensor:
    """One value for each channel of a group (C,), from those of a module's channels."""
    assert isinstance(values, torch.Tensor)
    return values.detach().float().cpu()[torch.as_tensor(member.indices)]


def _gamma(material: Material, groups: Sequence[ChannelGroup]) -> Scores:
    """|gamma| (Liu et al., Network Slimming, ICCV 2017), the mean over coupled norms."""
    return {group.name: material.gammas(group).mean(0) for group in groups}  # (N, C) -> (C,)


def _gamma_norm(material: Material, groups: Sequence[ChannelGroup]) -> Scores:
    """|gamma| times the Euclidean norm of all kernels that read the channel, so how strongly the readers use it."""
    scores = _gamma(material, groups)
    for group in groups:
        squares = torch.zeros(group.size)  # (C,)
        for member in group.readers:
            module: Any = material.modules[member.path]
            kernels = module.weight.detach().float().cpu()  # (outputs, inputs, height, width)
            if isinstance(module, nn.ConvTranspose2d):
                kernels = kernels.transpose(0, 1)
            squares += kernels.square().sum((0, 2, 3))[torch.as_tensor(member.indices)]  # (inputs,) -> (C,)
        scores[group.name] = scores[group.name] * squares.sqrt()
    return scores


def _taylor(material: Material, groups: Sequence[ChannelGroup]) -> Scores:
    """|sum over the coupled norms of gamma * dL/dgamma|, mean over the images: the change of the loss when gamma
    becomes 0, to first order (Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019)."""
    _gamma(material, groups)  # names gammas that are not finite numbers
    model = deepcopy(material.model).eval().requires_grad_(False)
    modules: dict[str, Any] = dict(model.named_modules())
    paths = sorted({member.path for group in groups for member in group.norms})
    weights = {path: modules[path].weight.requires_grad_(True) for path in paths}
    device = next(model.parameters()).device
    compute_loss = ComputeLoss(model)
    scores = {group.name: torch.zeros(group.size) for group in groups}
    count = 0
    for images, labels in material.batches:
        loss, _ = compute_loss(model(images.to(device))[1], labels.to(device))
        gradients = torch.autograd.grad(loss.sum(), list(weights.values()))  # (C of the norm,) each
        products = {path: gradient * weights[path] for path, gradient in zip(paths, gradients, strict=True)}
        for group in groups:
            terms = [_of_member(products[member.path], member) for member in group.norms]
            scores[group.name] += torch.stack(terms).sum(0).abs()  # (N, C) -> (C,)
        count += len(images)
    if not count:
        raise InputError("--score taylor needs training images, but there are none")
    if not all(values.isfinite().all() for values in scores.values()):
        raise InputError("the loss on the training images has no finite gradient: the training has diverged")
    return {name: values / count for name, values in scores.items()}


def _random(material: Material, groups: Sequence[ChannelGroup]) -> Scores:
    """Uniform random numbers: the control that every other score has to beat."""
    _gamma(material, groups)
    generator = torch.Generator().manual_seed(material.seed)
    return {group.name: torch.rand(group.size, generator=generator) for group in groups}


SCORES: dict[str, Callable[[Material, Sequence[ChannelGroup]], Scores]] = {
    "gamma": _gamma,
    "gamma-norm": _gamma_norm,
    "taylor": _taylor,
    "random": _random,
}
NEEDS_IMAGES = ("taylor",)


def score_channels(name: str, material: Material, groups: Sequence[ChannelGroup]) -> Scores:
    """The scores ``name`` of all channels of these groups.

    Raises:
        InputError: an unknown name, gammas that are not finite numbers, no images where they are needed.
    """
    if name not in SCORES:
        raise InputError(f"--score {short_repr(name)} is unknown: expected one of {', '.join(SCORES)}")
    return SCORES[name](material, groups)


def gamma_scores(model: nn.Module, groups: Sequence[ChannelGroup]) -> Scores:
    """The score 'gamma' of all channels of these groups."""
    return _gamma(Material(model), groups)
