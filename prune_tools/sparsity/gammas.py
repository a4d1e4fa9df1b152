"""The batch-norm gammas of a model's prunable channels, seen channel by channel.

A channel usually has one gamma. Where norms are coupled (the two sides of a shortcut, a depthwise convolution behind an
ordinary one) it has several, which are kept or removed together; its magnitude is then their root mean square, and they
are shrunk by a common factor, which is the group lasso (Yuan and Lin, 2006) with weights ``sqrt(size)``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from prune_tools.channels.groups import ChannelGroup, find_groups, protect, select_groups
from utils.checkpoint import de_parallel
from utils.errors import InputError

TINY = 1e-30  # avoids 0 / 0


class ChannelGammas:
    """The gammas of all prunable and trained channels as vectors over channels.

    Attributes:
        groups: the channel groups, in the order of the channels.
        norms: the batch norms by path that hold them.
        count: number of channels.
        layer: (count,), number of the channel group that a channel belongs to.

    G stands for the number of gammas that belong to channels.
    """

    def __init__(self, model: nn.Module, scope: str = "seed", skip: Sequence[str] = ()) -> None:
        """Find the channels of ``model`` that may be pruned in ``scope`` and whose norms are trained.

        ``skip`` are patterns of layers to leave alone, as in ``groups.protect``.

        Raises:
            InputError: there are none, or a pattern fits no layer.
        """
        model = de_parallel(model)
        modules = dict(model.named_modules())
        candidates = select_groups(protect(find_groups(model), model, skip), scope)
        groups = [group for group in candidates if _is_trained(group, modules)]
        if not groups:
            raise InputError("all norms of prunable layers are frozen, so there is nothing to sparsify: see --freeze")
        self.groups = groups
        paths = list(dict.fromkeys(member.path for group in groups for member in group.norms))
        self.norms: dict[str, nn.BatchNorm2d] = {path: modules[path] for path in paths}
        widths = [norm.num_features for norm in self.norms.values()]
        starts = dict(zip(paths, np.cumsum([0, *widths]), strict=False))
        positions = []
        owners = []
        self.count = 0
        for group in groups:
            for member in group.norms:
                positions.append(starts[member.path] + member.indices)
                owners.append(self.count + np.arange(group.size))
            self.count += group.size
        device = next(model.parameters()).device
        self._widths = widths
        # G gammas belong to channels; the norms may have more
        self._positions = torch.as_tensor(np.concatenate(positions), device=device)  # (G,) in the joined gammas
        self._owner = torch.as_tensor(np.concatenate(owners), device=device)  # (G,) the channel of each
        self._size = torch.bincount(self._owner, minlength=self.count)  # (count,) gammas of each channel
        sizes = torch.tensor([group.size for group in groups])
        self.layer = torch.arange(len(groups)).repeat_interleave(sizes).to(device)

    def twin(self, model: nn.Module) -> ChannelGammas:
        """The same channels of another model of the same structure, such as the moving average."""
        modules = dict(de_parallel(model).named_modules())
        other = copy.copy(self)
        other.norms = {path: modules[path] for path in self.norms}
        return other

    def _join(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """One tensor per norm -> (G,)."""
        return torch.cat(parts)[self._positions]

    def _weights(self) -> list[torch.Tensor]:
        return [norm.weight.detach() for norm in self.norms.values()]

    def _gradients(self) -> list[torch.Tensor]:
        weights = [norm.weight for norm in self.norms.values()]
        return [weight.grad if weight.grad is not None else torch.zeros_like(weight) for weight in weights]

    def _per_channel(self, values: torch.Tensor) -> torch.Tensor:
        """(G,) -> (count,), summed over the gammas of a channel."""
        return torch.zeros(self.count, device=values.device).index_add_(0, self._owner, values.float())

    def _magnitudes(self, values: torch.Tensor) -> torch.Tensor:
        """Gammas (G,) -> (count,)."""
        if len(self._positions) == self.count:  # one gamma each: exact, where a square could underflow
            return torch.zeros(self.count, device=values.device).index_copy_(0, self._owner, values.abs().float())
        return (self._per_channel(values.square()) / self._size).sqrt()

    def magnitudes(self) -> torch.Tensor:
        """(count,): |gamma|, or the root mean square of several coupled ones."""
        return self._magnitudes(self._join(self._weights()))

    def values(self) -> torch.Tensor:
        """(G,): all gammas that belong to channels."""
        return self._join(self._weights())

    def of_channels(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask of channels (count,) -> the mask of their gammas (G,)."""
        return mask[self._owner]

    def saliency(self, values: torch.Tensor | None = None) -> torch.Tensor:
        """(count,): squared first-order estimate of what the loss gains when the channel's gammas become zero.

        Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019; it needs gradients.

        Args:
            values: (G,), gammas to take instead of the present ones: for a channel that is zero, what the loss would
                gain if it had those.
        """
        values = self.values() if values is None else values
        return self._per_channel(values * self._join(self._gradients())).square()

    @torch.no_grad()
    def add_subgradient(self, rate: float) -> None:
        """Add the gradient of ``rate * sum_channels sqrt(size) * ||gammas||`` (one gamma: ``rate * |gamma|``)."""
        values = self._join(self._weights())  # (G,)
        direction = values / self._magnitudes(values)[self._owner].clamp(min=TINY)  # (G,)
        joined = torch.zeros(sum(self._widths), device=values.device).index_copy_(0, self._positions, direction)
        torch._foreach_add_(self._gradients(), list(joined.split(self._widths)), alpha=rate)

    @torch.no_grad()
    def shrink(self, amounts: torch.Tensor | float) -> None:
        """Reduce each magnitude by its amount (count,), smaller ones to exactly zero (soft threshold)."""
        joined = torch.cat(self._weights())
        values = joined[self._positions]  # (G,)
        factors = (1 - amounts / self._magnitudes(values).clamp(min=TINY)).clamp(min=0)  # (count,)
        joined[self._positions] = values * factors[self._owner].to(values)
        torch._foreach_copy_(self._weights(), list(joined.split(self._widths)))

    @torch.no_grad()
    def assign(self, values: torch.Tensor, channels: torch.Tensor) -> None:
        """Set the gammas of the channels in a mask (count,) to those of ``values`` (G,)."""
        joined = torch.cat(self._weights())
        own = joined[self._positions]  # (G,)
        joined[self._positions] = torch.where(self.of_channels(channels), values.to(own), own)
        torch._foreach_copy_(self._weights(), list(joined.split(self._widths)))

    @torch.no_grad()
    def clear(self, channels: torch.Tensor) -> None:
        """Set the gammas of the channels in a mask (count,) to zero."""
        self.shrink(torch.where(channels, torch.inf, 0.0))


def _is_trained(group: ChannelGroup, modules: dict[str, Any]) -> bool:
    """Tell whether no norm of ``group`` is frozen."""
    return all(modules[member.path].weight.requires_grad for member in group.norms)
