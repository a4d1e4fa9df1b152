"""Polarizing: which channels go, how they get to zero, and when it waits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prune_tools.channels.structure import Structure
from prune_tools.planning.costs import CostModel
from prune_tools.planning.goals import Target
from prune_tools.sparsity.polarize import FREE_SHARE, ByBudget, ByShare, Polarizer
from utils.errors import InputError


def test_polarizing_chooses_the_least_salient_and_leaves_the_others(gammas):
    polarizer = Polarizer(gammas, ByShare(gammas.layer, 0.5), epochs=4, batches=10)
    polarizer.saliency = torch.rand(gammas.count)
    before = gammas.magnitudes()
    for _ in range(40):
        polarizer.step(1)
    after, chosen = gammas.magnitudes(), polarizer.chosen
    assert float(chosen.float().mean()) == pytest.approx(0.5, abs=0.01)
    assert (after[chosen] == 0).all()
    torch.testing.assert_close(after[~chosen], before[~chosen])
    for layer in range(int(gammas.layer.max()) + 1):
        inside = gammas.layer == layer
        free = max(1, -(-int(inside.sum()) * FREE_SHARE // 1))
        assert int((inside & ~chosen).sum()) >= free
    spared = ByShare(gammas.layer, 0.5)._spared(polarizer.saliency)
    assert polarizer.saliency[chosen].max() <= polarizer.saliency[~chosen & ~spared].min()


@pytest.mark.slow
def test_polarizing_keeps_at_zero_what_was_there_already(gammas):
    """A model that has been sparse before: the optimizer pushes its zeros, which the penalty has to hold."""
    torch.manual_seed(0)
    weights = [norm.weight for norm in gammas.norms.values()]
    chosen = torch.rand(gammas.count) < 0.4
    gammas.clear(chosen)
    optimizer = torch.optim.AdamW(weights, lr=0.002, weight_decay=0.0)
    polarizer = Polarizer(gammas, lambda saliency, before, done: chosen if done else before, epochs=4, batches=36)
    for _ in range(4 * 36):
        for weight in weights:
            weight.grad = torch.randn_like(weight) - 0.1
        optimizer.step()
        polarizer.step(1)
    assert (gammas.magnitudes()[chosen] == 0).all()
    assert (gammas.magnitudes()[~chosen] > 0).all()


@pytest.mark.slow
def test_polarizing_for_a_budget_saves_what_is_asked_for(gammas, network):
    costs = CostModel(replace(Structure.of(network), groups=gammas.groups))
    choose = ByBudget(gammas.groups, costs, Target("flops", 0.5, relative=True), round_to=2)
    saliency, chosen, previous = torch.rand(gammas.count), torch.zeros(gammas.count).bool(), choose.present
    for done in (0.0, 0.3, 0.31, 1.0):
        wanted = choose(saliency, chosen, done)
        assert wanted[chosen].all()  # what was chosen stays chosen
        chosen = wanted
        kept = torch.tensor([int((~part).sum()) for part in chosen.split(costs.sizes.tolist())])
        spent = costs("flops", kept.numpy())
        budget = choose.present - done * (choose.present - choose.final)
        assert 0.97 * budget <= spent <= budget
        assert spent <= previous
        previous = spent
    whole = kept == torch.as_tensor(costs.sizes)
    assert (whole | (kept % 2 == 0)).all()
    assert (kept >= (1 - 0.9) * torch.as_tensor(costs.sizes)).all()
    with pytest.raises(InputError, match="cannot be reached"):
        ByBudget(gammas.groups, costs, Target("flops", 0.001, relative=True))


def test_polarizing_waits_while_it_is_held_but_not_too_long(gammas):
    polarizer = Polarizer(gammas, ByShare(gammas.layer, 0.5), epochs=10, batches=10)
    polarizer.held = True
    for _ in range(30):
        polarizer.step(1)
    assert not polarizer.chosen.any()
    for _ in range(60):
        polarizer.step(1)
    assert float(polarizer.chosen.float().mean()) == pytest.approx(0.5, abs=0.01)


def set_gradients(gammas, needed: torch.Tensor, values: torch.Tensor) -> None:
    """Set the gradients with which the loss needs each channel as much as ``needed`` (count,) at gammas ``values``."""
    gradient = torch.zeros(sum(norm.num_features for norm in gammas.norms.values()))
    gradient[gammas._positions] = (needed / gammas._size)[gammas._owner] / values
    for norm, part in zip(
        gammas.norms.values(), gradient.split([norm.num_features for norm in gammas.norms.values()]), strict=True
    ):
        norm.weight.grad = part.clone()


@pytest.mark.parametrize("reversible", [False, True])
def test_a_channel_that_becomes_needed_returns_if_the_choice_is_reversible(gammas, reversible):
    torch.manual_seed(0)
    polarizer = Polarizer(gammas, ByShare(gammas.layer, 0.5, reversible), epochs=10, batches=10, reversible=reversible)
    before = gammas.values().clone()
    needed = torch.rand(gammas.count) + 0.5
    least = needed.argsort()[: gammas.count // 8]  # chosen first
    for batch in range(100):
        if batch == 40:
            assert polarizer.chosen[least].float().mean() > 0.8  # but those that their layer's floor protects
            assert float(gammas.magnitudes()[least].median()) == 0
            needed[least] = 50.0
        set_gradients(gammas, needed, before)
        polarizer.observe()
        polarizer.step(1)
    chosen = polarizer.chosen
    assert float(chosen.float().mean()) == pytest.approx(0.5, abs=0.01)
    assert (gammas.magnitudes()[chosen] == 0).all()
    if not reversible:
        assert chosen[least].float().mean() > 0.8
        return
    assert not chosen[least].any()
    assert (gammas.magnitudes()[least] > 0).all()
    back = gammas.of_channels(torch.zeros_like(chosen).index_fill(0, least, True))
    ratios = gammas.values()[back] / before[back]  # of the gammas that they had at first
    assert ((ratios >= 0.25 - 1e-6) & (ratios <= 1)).all()


def test_nothing_returns_after_the_last_choice(gammas):
    polarizer = Polarizer(gammas, ByShare(gammas.layer, 0.5, True), epochs=10, batches=10, reversible=True)
    before, needed = gammas.values().clone(), torch.rand(gammas.count) + 0.5
    for batch in range(100):
        if batch == 70:
            final = polarizer.chosen.clone()
            needed[final] = 50.0
        set_gradients(gammas, needed, before)
        polarizer.observe()
        polarizer.step(1)
    assert torch.equal(polarizer.chosen, final) and float(final.float().mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_a_reversible_budget_may_exchange_channels(gammas, network):
    costs = CostModel(replace(Structure.of(network), groups=gammas.groups))
    choose = ByBudget(gammas.groups, costs, Target("flops", 0.5, relative=True), round_to=2, reversible=True)
    saliency = torch.rand(gammas.count) + 0.1
    first = choose(saliency, torch.zeros(gammas.count).bool(), 0.8)
    saliency[first] *= 1.5  # less than the advantage of those that stay
    assert torch.equal(choose(saliency, first, 0.8), first)
    saliency[first] *= 100
    second = choose(saliency, first, 0.8)
    assert (first & ~second).sum() > first.sum() / 4
    kept = torch.tensor([int((~part).sum()) for part in second.split(costs.sizes.tolist())])
    assert costs("flops", kept.numpy()) <= choose.present - 0.8 * (choose.present - choose.final)
