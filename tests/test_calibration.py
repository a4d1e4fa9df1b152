"""Images for repairs and re-estimated batch norm."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from prune_tools.repair.calibration import recalibrate
from prune_tools.training_images import Batch, focus_on_objects, read_training_images, repair_images
from tests.pruning_networks import thin
from utils.dataset.description import check_dataset


def test_training_batches_are_whole_and_of_the_training_images(tiny_dataset):
    data = check_dataset(str(tiny_dataset))
    batches = list(read_training_images(data, 10, 64, 32, batch_size=4))
    assert [tuple(images.shape) for images, _, _ in batches] == [(4, 3, 64, 64)] * 2
    assert all(images.dtype == torch.uint8 and labels.shape[1] == 6 for images, labels, _ in batches)
    again = list(read_training_images(data, 10, 64, 32, batch_size=4))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(batches, again, strict=True))
    assert len(list(read_training_images(data, 1000, 64, 32, batch_size=4))) == 3  # all of the 12


@pytest.mark.slow
def test_statistics_are_those_of_the_images():
    model = thin("yolov5n").float()
    before = deepcopy(model.state_dict())
    images = [torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8) for _ in range(3)]
    recalibrate(model, [Batch(batch, torch.ones(2, 64, 64)) for batch in images])
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
    batches = repair_images(check_dataset(str(tiny_dataset)), count, 64, 32)
    assert [len(batch.images) for batch in batches] == [count]


def test_focus_lies_on_objects_and_never_on_padding():
    images = torch.zeros(2, 3, 40, 80, dtype=torch.uint8)
    labels = torch.tensor([[0, 1, 0.5, 0.5, 0.1, 0.2]])  # 8 x 8 pixels around (40, 20), 12 x 12 with the margin
    focus = focus_on_objects(images, labels, [(0, 10), (0, 10)])
    torch.testing.assert_close(focus.sum((1, 2)), torch.ones(2))
    assert not focus[:, :10].any() and not focus[:, 30:].any()
    assert float(focus[0, 13:28, 33:48].sum()) > 0.9
    assert float(focus[0, 12, 5]) > 0
    assert (focus[1, 10:30] == focus[1, 10, 0]).all()  # no object: the picture alike
