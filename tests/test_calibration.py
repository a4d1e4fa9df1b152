"""Images for repairs and batch norm estimated anew."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from prune_tools.calibration import recalibrate, training_batches
from tests.pruning_networks import thin
from utils.checks import check_dataset


def test_training_batches_are_whole_and_of_the_training_images(tiny_dataset):
    data = check_dataset(str(tiny_dataset))
    batches = training_batches(data, 10, 64, 4, 32)
    assert [tuple(batch.shape) for batch in batches] == [(4, 3, 64, 64)] * 2
    assert batches[0].dtype == torch.uint8
    again = training_batches(data, 10, 64, 4, 32)
    assert all(torch.equal(one, other) for one, other in zip(batches, again, strict=True))
    assert len(training_batches(data, 1000, 64, 4, 32)) == 3  # all of the 12


def test_statistics_are_those_of_the_images():
    model = thin("yolov5n").float()
    before = deepcopy(model.state_dict())
    images = [torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8) for _ in range(3)]
    recalibrate(model, images)
    inputs = [model.model[0].conv(batch.float() / 255) for batch in images]
    norm = model.model[0].bn
    mean = torch.stack([value.mean((0, 2, 3)) for value in inputs]).mean(0)
    variance = torch.stack([value.var((0, 2, 3)) for value in inputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
    assert not any(module.training for module in model.modules())
    assert {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.03}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_images_than_a_batch_make_a_smaller_batch(tiny_dataset, count):
    batches = training_batches(check_dataset(str(tiny_dataset)), count, 64, 16, 32)
    assert [len(batch) for batch in batches] == [count]
