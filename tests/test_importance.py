"""Scores of channels."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from models.yolo import DetectionModel
from prune_tools.channels.groups import find_groups, select_groups
from prune_tools.make_plan import with_hyperparameters
from prune_tools.planning.options import SCORE_NAMES
from prune_tools.planning.scores import SCORES, Material, gamma_scores, score_channels
from tests.pruning_networks import thin
from utils.errors import InputError
from utils.loss import ComputeLoss


@pytest.fixture(scope="module")
def nano() -> DetectionModel:
    return thin("yolov5n")


@pytest.fixture(scope="module")
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    labels = torch.tensor([[0, 0, 0.5, 0.5, 0.4, 0.4], [0, 1, 0.2, 0.7, 0.1, 0.2], [1, 1, 0.6, 0.3, 0.3, 0.5]])
    generator = torch.Generator().manual_seed(4)
    return [(torch.rand(2, 3, 64, 64, generator=generator), labels) for _ in range(2)]


def test_gammas_that_are_no_numbers_are_named(nano):
    model = deepcopy(nano)
    model.model[3].bn.weight.data[2] = float("nan")
    with pytest.raises(InputError, match=r"channel 2 in model\.3\.bn is not a finite number"):
        gamma_scores(model, select_groups(find_groups(model)))


def test_one_score_for_coupled_channels(nano):
    group = next(group for group in find_groups(nano) if group.name == "model.4.cv1.conv")
    gammas = torch.stack([nano.get_submodule(member.path).weight.abs().float() for member in group.norms])
    assert len(gammas) > 1
    assert torch.allclose(gamma_scores(nano, [group])[group.name], gammas.mean(0))


def test_norm_of_the_readers(nano):
    group = next(group for group in find_groups(nano) if group.name == "model.9.cv1.conv")  # read at four places
    kernels = nano.get_submodule("model.9.cv2.conv").weight.float()
    squares = kernels.square().sum((0, 2, 3)).view(4, group.size).sum(0)
    expected = nano.get_submodule("model.9.cv1.bn").weight.abs().float() * squares.sqrt()
    assert torch.allclose(score_channels("gamma-norm", Material(nano), [group])["model.9.cv1.conv"], expected)


@pytest.mark.slow
def test_taylor_is_gradient_times_weight_of_all_that_is_coupled(nano, batches):
    model = with_hyperparameters(nano, 64).float()
    group = next(group for group in find_groups(model) if group.name == "model.4.cv1.conv")
    scores = score_channels("taylor", Material(model, batches[:1]), [group])[group.name]
    images, labels = batches[0]
    ComputeLoss(model)(model.eval()(images)[1], labels)[0].backward()
    norms = [model.get_submodule(member.path) for member in group.norms]
    assert len(norms) == 3
    assert torch.allclose(scores, sum(norm.weight * norm.weight.grad for norm in norms).abs() / 2, rtol=1e-4)
    twice = score_channels("taylor", Material(model, [batches[0], batches[0]]), [group])[group.name]
    assert torch.allclose(scores, twice, rtol=1e-4)  # a mean over the images


def test_taylor_without_images(nano):
    model = with_hyperparameters(nano, 64)
    with pytest.raises(InputError, match="needs training images"):
        score_channels("taylor", Material(model), select_groups(find_groups(model)))


def test_random_is_the_same_each_time_and_knows_nothing(nano):
    groups = select_groups(find_groups(nano), "all")
    first, second = (score_channels("random", Material(nano, seed=0), groups) for _ in range(2))
    other = score_channels("random", Material(nano, seed=1), groups)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.1.conv"], other["model.1.conv"])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_score_has_one_interface(nano, batches, name):
    model = with_hyperparameters(nano, 64).float()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    groups = select_groups(find_groups(model), "all")
    scores = score_channels(name, Material(model, batches), groups)
    assert {key: value.shape for key, value in scores.items()} == {group.name: (group.size,) for group in groups}
    assert all(bool((value >= 0).all()) for value in scores.values())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    broken = deepcopy(model)
    broken.model[3].bn.weight.data[2] = float("inf")
    with pytest.raises(InputError, match=r"channel 2 in model\.3\.bn is not a finite number"):
        score_channels(name, Material(broken, batches), groups)


def test_the_option_offers_the_scores():
    assert list(SCORE_NAMES) == list(SCORES)


def test_unknown_score(nano):
    with pytest.raises(InputError, match=r"'beta' is unknown: expected one of gamma, gamma-norm, taylor, random"):
        score_channels("beta", Material(nano), [])
