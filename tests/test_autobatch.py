"""The batch size that fits: the line through measurements, and what happens without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from utils.autobatch import auto_batch_size, fitting_batch_size
from utils.errors import InputError

SIZES = (1, 2, 4, 8, 16)


def test_nine_tenths_of_the_free_memory_are_filled() -> None:
    used = [1000 + 100 * size for size in SIZES]
    assert fitting_batch_size(SIZES, used, free=20_000) == 170  # (0.9 * 20000 - 1000) / 100
    assert fitting_batch_size(SIZES, used, free=1200) == 1  # never less


def test_a_size_that_did_not_fit_limits_the_result() -> None:
    used = [1000 + 10 * size for size in SIZES[:3]]
    assert fitting_batch_size(SIZES[:3], used, free=20_000, failed=True) == 4
    assert fitting_batch_size(SIZES[:1], used[:1], free=20_000, failed=True) == 1


def test_noise_without_a_slope_gives_the_largest_measured() -> None:
    assert fitting_batch_size(SIZES, [1000.0] * 5, free=20_000) == 16


def test_not_even_one_image() -> None:
    with pytest.raises(InputError, match="not even one image"):
        fitting_batch_size([], [], free=1000, failed=True)


def test_without_a_gpu_it_is_sixteen() -> None:
    assert auto_batch_size(nn.Identity(), 640, torch.device("cpu")) == 16
