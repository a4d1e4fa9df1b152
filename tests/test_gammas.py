"""The gammas of prunable channels: coupled ones, the group lasso, the soft threshold."""

from __future__ import annotations

import pytest
import torch

from prune_tools.sparsity.gammas import ChannelGammas


def members(gammas: ChannelGammas, channel: int) -> torch.Tensor:
    """The gammas of one channel, read the slow way."""
    joined = torch.cat([norm.weight.detach() for norm in gammas.norms.values()])
    return joined[gammas._positions[gammas._owner == channel]]


def test_coupled_channels_are_found(gammas, network):
    sizes = torch.bincount(gammas._owner)
    assert (sizes == 1).any()
    assert (sizes > 1).any()
    coupled = int(sizes.argmax())
    assert gammas.magnitudes()[coupled] == pytest.approx(float(members(gammas, coupled).square().mean().sqrt()))
    assert ChannelGammas(network, "seed").count < gammas.count


def test_protected_layers_are_left_alone(network):
    every = set(ChannelGammas(network).norms)
    first = min(every)
    assert set(ChannelGammas(network, skip=[first.rpartition(".")[0]]).norms) == every - {first}


def test_subgradient_is_that_of_the_group_lasso(gammas):
    rate, weights = 0.3, [norm.weight for norm in gammas.norms.values()]
    squares = torch.zeros(gammas.count).index_add(0, gammas._owner, torch.cat(weights)[gammas._positions].square())
    norms = squares.sqrt()
    expected = torch.autograd.grad(rate * (torch.bincount(gammas._owner).sqrt() * norms).sum(), weights)
    gammas.add_subgradient(rate)
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_shrinking_is_the_soft_threshold(gammas):
    before, amount = gammas.magnitudes(), 0.4
    single = (torch.bincount(gammas._owner) == 1).nonzero().flatten()
    signs = {int(channel): members(gammas, channel).sign() for channel in single[:5]}
    gammas.shrink(amount)
    torch.testing.assert_close(gammas.magnitudes(), (before - amount).clamp(min=0))
    assert ((gammas.magnitudes() == 0) == (before <= amount)).all()  # zeros are exact, and coupled gammas go together
    assert (gammas.magnitudes() == 0).any()
    for channel, sign in signs.items():
        assert members(gammas, channel) * sign >= 0


def test_saliency_is_the_squared_change_of_a_linear_loss(gammas):
    slope = torch.rand(sum(norm.num_features for norm in gammas.norms.values()))
    for norm, part in zip(gammas.norms.values(), slope.split(gammas._widths), strict=True):
        norm.weight.grad = part
    channel = int(torch.bincount(gammas._owner).argmax())
    own = slope[gammas._positions[gammas._owner == channel]]
    lost = (own * members(gammas, channel)).sum()  # loss = slope * gammas, exactly linear
    assert gammas.saliency()[channel] == pytest.approx(float(lost**2), rel=1e-5)


def test_frozen_norms_take_no_part(network):
    full = ChannelGammas(network).norms
    frozen = next(iter(full))
    network.get_submodule(frozen).weight.requires_grad_(False)
    assert set(ChannelGammas(network).norms) == set(full) - {frozen}
    network.get_submodule(frozen).weight.requires_grad_(True)
