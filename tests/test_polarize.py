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
