"""Recorded batches on a GPU train as others do, also with penalty and teacher, and when a run is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import train
from models.loading import load_checkpoint
from prune_tools import finetune, train_sparity
from tests.conftest import draw_tiny_dataset
from utils.callbacks import Callbacks

if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """26 pictures: six batches of four and one of two."""
    return str(draw_tiny_dataset(tmp_path_factory.mktemp("pictures"), train=26, val=6))


def run(folder: Path, data: str, name: str, command=train, callbacks=None, **changes) -> tuple[str, dict]:
    """results.csv and the final weights of a run of three epochs."""
    options = {
        "data": data, "weights": "", "imgsz": 64, "batch_size": 4, "epochs": 3, "device": "0", "workers": 2,
        "project": str(folder), "name": name, "noplots": True,
    }  # fmt: skip
    keywords = {"callbacks": callbacks} if callbacks else {}
    command.run(**keywords, **(options | changes))
    model = load_checkpoint(folder / name / "weights/last.pt")["model"]
    return (folder / name / "results.csv").read_text(), model.state_dict()


def check_equal(first: tuple[str, dict], second: tuple[str, dict]) -> None:
    assert first[0] == second[0]
    assert all(torch.equal(value, second[1][name]) for name, value in first[1].items())


@pytest.mark.parametrize("changes", [{}, {"optimizer": "AdamW"}, {"batch_size": 2}], ids=str)
def test_recorded_batches_train_like_others(data, tiny_cfg, tmp_path, changes):
    states, recordings = [], []
    callbacks = Callbacks()
    callbacks.register_action("on_training_ready", callback=states.append)
    callbacks.register_action(
        "on_model_save", callback=lambda *_: recordings.append(len(states[0].batch_step.recordings))
    )
    recorded = run(tmp_path, data, "recorded", cfg=str(tiny_cfg), callbacks=callbacks, **changes)
    assert recordings[-1] >= 1
    plain = run(tmp_path, data, "plain", cfg=str(tiny_cfg), no_cuda_graph=True, **changes)
    check_equal(recorded, plain)


def test_penalty_and_teacher_are_recorded_too(data, tiny_cfg, tmp_path):
    run(tmp_path, data, "base", cfg=str(tiny_cfg))
    weights = str(tmp_path / "base/weights/last.pt")
    for command, changes in (
        (train_sparity, {"penalty": "polarize", "target_share": 0.2}),
        (finetune, {"teacher": weights}),
    ):
        name = command.__name__.rsplit(".")[-1]
        recorded = run(tmp_path, data, name, command, weights=weights, **changes)
        plain = run(tmp_path, data, f"{name}-plain", command, weights=weights, no_cuda_graph=True, **changes)
        check_equal(recorded, plain)


def test_a_resumed_run_goes_on_alike(data, tiny_cfg, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    whole = run(tmp_path, data, "whole", cfg=str(tiny_cfg))
    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, data, "parts", cfg=str(tiny_cfg), callbacks=callbacks)
    train.run(resume=str(tmp_path / "parts/weights/last.pt"))
    model = load_checkpoint(tmp_path / "parts/weights/last.pt")["model"]
    check_equal(whole, ((tmp_path / "parts/results.csv").read_text(), model.state_dict()))


def test_memory_stays_within_limits(data, tmp_path):
    """Recordings share their memory; what they hold comes to little more than what eager batches need."""
    reserved = []
    for no_cuda_graph in (True, False):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run(tmp_path, data, f"memory{no_cuda_graph}", cfg="yolov5n.yaml", imgsz=320, batch_size=24,
            no_cuda_graph=no_cuda_graph)  # fmt: skip
        reserved.append(torch.cuda.max_memory_reserved())
    assert reserved[1] < 1.3 * reserved[0], reserved
