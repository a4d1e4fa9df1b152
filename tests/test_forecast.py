"""What a pipeline says before it starts."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from prune_tools import forecast
from prune_tools.forecast import in_words, log_forecast, share_left, start_model, with_epochs
from prune_tools.pipeline_options import PipelineOptions
from prune_tools.planning.costs import IMAGE_SIZE
from prune_tools.tuning.recipes import epochs_after
from utils.commands.options import build
from utils.errors import InputError
from utils.log import LOGGER
from utils.model_info import count_parameters, gflops


def pipeline_options(tiny_cfg, **values: Any) -> PipelineOptions:
    return build(PipelineOptions, **({"cfg": str(tiny_cfg), "imgsz": 64, "batch_size": 2, "device": "cpu"} | values))


@pytest.mark.parametrize("share, epochs", [(1.0, 30), (0.75, 35), (0.5, 50), (0.25, 100), (0.01, 150)])
def test_deeper_cuts_are_tuned_longer(share, epochs):
    assert epochs_after(share) == epochs


@pytest.mark.parametrize("seconds, words", [
    (4.4, "4 s"), (119, "2 min"), (5400, "90 min"), (12_600, "3 h 30 min"), (7200, "2 h"), (200_000, "2 days 7 h"),
])  # fmt: skip
def test_durations_are_put_in_words(seconds, words):
    assert in_words(seconds) == words


def test_the_share_is_that_of_the_goal(tiny_cfg):
    model = start_model(pipeline_options(tiny_cfg))
    assert share_left(pipeline_options(tiny_cfg, percent=0.3), model) == pytest.approx(0.7)
    assert share_left(pipeline_options(tiny_cfg, target_flops="0.4"), model) == pytest.approx(0.4)
    half = count_parameters(model) // 2
    assert share_left(pipeline_options(tiny_cfg, target_params=str(half)), model) == pytest.approx(0.5, abs=0.01)
    operations = gflops(model, IMAGE_SIZE) * 1e9
    assert share_left(pipeline_options(tiny_cfg, target_flops=f"{operations / 4e9}G"), model) == pytest.approx(0.25)
    tuned = with_epochs(pipeline_options(tiny_cfg, target_flops="0.25"), model)
    assert tuned.finetune_epochs == 100
    assert with_epochs(pipeline_options(tiny_cfg, finetune_epochs=7), model).finetune_epochs == 7
    with pytest.raises(InputError, match="nothing to train"):
        start_model(build(PipelineOptions))


@pytest.mark.parametrize(
    "changes, counted",
    [
        # epochs x (training images x (width + a teacher's .4) + validation images x .4 x width)
        ({}, 10 * (8 + 1.6) + 4 * (8 * 1.4 + 1.6) + 2 * (8 * 0.9 + 0.8)),
        ({"once": True, "base_epochs": 100}, 4 * (8 + 1.6) + 2 * (8 * 0.5 + 0.8)),
    ],
)
def test_the_time_is_that_of_all_images(tiny_cfg, monkeypatch, caplog, changes, counted):
    values = {"base_epochs": 10, "sparse_epochs": 4, "finetune_epochs": 2, "target_flops": "0.5"} | changes
    monkeypatch.setattr(forecast, "seconds_per_image", lambda model, options: 10.0)
    monkeypatch.setattr(forecast, "check_dataset", lambda data, splits: {"train": 8, "val": 4})
    monkeypatch.setattr(forecast, "find_images", lambda count: ["image"] * count)
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.INFO):
        options = pipeline_options(tiny_cfg, **values)
        log_forecast(options, start_model(options))
    assert f"about {in_words(10 * counted)} on this machine" in caplog.text
    assert ("base" in caplog.text) != bool(changes)


def test_steps_are_timed(tiny_cfg):
    options = pipeline_options(tiny_cfg)
    assert forecast.seconds_per_image(start_model(options), options) > 0
