"""The training command end to end on drawn images: files, resume, sparsity, and what happens with bad input."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch

import train
import val
from models.loading import load_checkpoint
from prune_tools import train_sparity
from utils.callbacks import Callbacks
from utils.config import TrainOptions, build
from utils.errors import InputError
from utils.files import ROOT, read_yaml

CFG = str(ROOT / "models/yolov5n_mask.yaml")


def options(tiny_dataset: Path, folder: Path, options_class: type = TrainOptions, **changes) -> TrainOptions:
    """A short run from scratch on the CPU without loader processes."""
    common = {
        "data": str(tiny_dataset), "cfg": CFG, "weights": "", "imgsz": 64, "batch_size": 4, "epochs": 2, "workers": 0,
        "device": "cpu", "project": str(folder), "noplots": True,
    }  # fmt: skip
    return build(options_class, **(common | changes))


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a stripped or unstripped checkpoint."""
    return load_checkpoint(path)["model"].float().state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether all entries are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def base_run(tiny_dataset, tmp_path_factory) -> Path:
    """The folder of a finished run of two epochs, with plots."""
    folder = tmp_path_factory.mktemp("runs")
    train.main(options(tiny_dataset, folder, noplots=False))
    return folder / "exp"


def test_a_run_leaves_the_published_files(base_run):
    names = {path.relative_to(base_run).as_posix() for path in base_run.rglob("*")}
    assert {"hyp.yaml", "opt.yaml", "results.csv", "results.png", "weights/last.pt", "weights/best.pt"} <= names
    assert {
        "labels.jpg",
        "train_batch0.jpg",
        "val_batch0_labels.jpg",
        "val_batch0_pred.jpg",
        "confusion_matrix.png",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = list(csv.reader((base_run / "results.csv").open()))
    assert len(rows) == 3
    assert [len(row) for row in rows] == [14] * 3
    assert rows[0][0].strip() == "epoch"
    assert read_yaml(base_run / "opt.yaml")["epochs"] == 2
    assert read_yaml(base_run / "hyp.yaml")["box"] == 0.05  # unscaled


def test_finished_checkpoints_are_stripped_and_valid(base_run, tiny_dataset, tmp_path):
    checkpoint = load_checkpoint(base_run / "weights/best.pt")
    assert checkpoint["optimizer"] is None
    assert checkpoint["epoch"] == -1
    results, maps, _ = val.run(
        str(tiny_dataset),
        str(base_run / "weights/best.pt"),
        imgsz=64,
        device="cpu",
        workers=0,
        plots=False,
        save_dir=tmp_path,
    )
    assert len(results) == 7
    assert len(maps) == 2


def test_a_training_step_learns(tiny_dataset, tmp_path):
    losses = []
    callbacks = Callbacks()
    callbacks.register_action("on_fit_epoch_end", callback=lambda values, *_: losses.append(sum(values[:3])))
    train.main(options(tiny_dataset, tmp_path, epochs=6, noval=True), callbacks)
    assert losses[-1] < losses[0]


class StopAt:
    """Raises KeyboardInterrupt in the middle of an epoch, as Ctrl-C does."""

    def __init__(self, batch: int) -> None:
        self.batch, self.seen = batch, 0

    def __call__(self, *_: object) -> None:
        self.seen += 1
        if self.seen == self.batch:
            raise KeyboardInterrupt


def interrupted_then_resumed(tiny_dataset: Path, folder: Path, command, options_class: type, **changes) -> Path:
    """Break a run off in its last epoch, resume it, and return its folder."""
    chosen = options(tiny_dataset, folder, options_class, epochs=3, **changes)
    batches = 3 * (len(list((tiny_dataset.parent / "images/train").iterdir())) // 4)
    callbacks = Callbacks()
    callbacks.register_action("on_train_batch_end", callback=StopAt(batches - 1))
    original = train.main
    with pytest.raises(KeyboardInterrupt):
        original(chosen, callbacks)
    last = folder / "exp/weights/last.pt"
    assert load_checkpoint(last)["epoch"] == 1  # what was saved before the interruption is whole
    command(build(options_class, resume=str(last)))
    return folder / "exp"


def test_resume_is_exact(tiny_dataset, tmp_path):
    train.main(options(tiny_dataset, tmp_path / "whole", epochs=3))
    resumed = interrupted_then_resumed(tiny_dataset, tmp_path / "broken", train.main, TrainOptions)
    assert same(weights_of(tmp_path / "whole/exp/weights/last.pt"), weights_of(resumed / "weights/last.pt"))
    assert (tmp_path / "whole/exp/results.csv").read_text() == (resumed / "results.csv").read_text()


def test_seeds_mean_something(tiny_dataset, tmp_path):
    runs = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        train.main(options(tiny_dataset, tmp_path, epochs=1, seed=seed, name=name))
        runs[name] = weights_of(tmp_path / name / "weights/last.pt")
    assert same(runs["first"], runs["again"])
    assert not same(runs["first"], runs["other"])


def test_sparse_training_with_rate_zero_is_training(base_run, tiny_dataset, tmp_path):
    train_sparity.main(options(tiny_dataset, tmp_path, train_sparity.SparseOptions, sr=0.0))
    assert same(weights_of(base_run / "weights/last.pt"), weights_of(tmp_path / "exp/weights/last.pt"))


def test_no_st_switches_the_penalty_off(base_run, tiny_dataset, tmp_path):
    train_sparity.main(options(tiny_dataset, tmp_path, train_sparity.SparseOptions, sr=1.0, st=False))
    assert same(weights_of(base_run / "weights/last.pt"), weights_of(tmp_path / "exp/weights/last.pt"))


def test_the_penalty_shrinks_prunable_gammas_only(tiny_dataset, tmp_path):
    from prune_tools.groups import prunable_norms

    shrunk = []
    for name, rate in (("dense", 0.0), ("sparse", 10.0)):
        train_sparity.main(
            options(tiny_dataset, tmp_path, train_sparity.SparseOptions, sr=rate, sr_beta=0.0, name=name, epochs=4)
        )
        model = load_checkpoint(tmp_path / name / "weights/last.pt")["model"].float()
        chosen = prunable_norms(model)
        norms = {key: module for key, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
        assert 0 < len(chosen) < len(norms)
        inside = torch.cat([norms[key].weight.abs() for key in chosen]).mean()
        outside = torch.cat([module.weight.abs() for key, module in norms.items() if key not in chosen]).mean()
        shrunk.append((float(inside), float(outside)))
    (dense_in, dense_out), (sparse_in, sparse_out) = shrunk
    assert sparse_in < dense_in - 0.02
    assert abs(sparse_out - dense_out) < 0.02


def test_histograms_reach_tensorboard(tiny_dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_sparity.main(options(tiny_dataset, tmp_path, train_sparity.SparseOptions, epochs=1))
    events = EventAccumulator(str(tmp_path / "exp")).Reload().Tags()
    assert "bn_weights/hist" in events["histograms"]
    assert len(events["histograms"]) > 10
    assert "bn_weights/share_below_0.01" in events["scalars"]
    assert "metrics/mAP_0.5" in events["scalars"]


def test_training_goes_on_from_weights_of_other_classes(base_run, tiny_dataset, tmp_path):
    data = read_yaml(tiny_dataset)
    three = tiny_dataset.with_name("three.yaml")
    three.write_text(
        f"path: {tiny_dataset.parent}\ntrain: {data['train']}\nval: {data['val']}\nnames: [face, face_mask, helmet]\n"
    )
    train.main(
        options(tiny_dataset, tmp_path, data=str(three), cfg="", weights=str(base_run / "weights/last.pt"), epochs=1)
    )
    assert load_checkpoint(tmp_path / "exp/weights/last.pt")["model"].names == ["face", "face_mask", "helmet"]
    three.unlink()


def test_frozen_layers_stay(base_run, tiny_dataset, tmp_path):
    weights = base_run / "weights/last.pt"
    train.main(options(tiny_dataset, tmp_path, cfg="", weights=str(weights), freeze=[3], epochs=1))
    before, after = weights_of(weights), weights_of(tmp_path / "exp/weights/last.pt")
    assert torch.equal(before["model.2.cv1.conv.weight"], after["model.2.cv1.conv.weight"])
    assert not torch.equal(before["model.3.conv.weight"], after["model.3.conv.weight"])


def test_a_copied_run_folder_resumes_where_it_lies(tiny_dataset, tmp_path):
    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=StopAt(1))
    with pytest.raises(KeyboardInterrupt):
        train.main(options(tiny_dataset, tmp_path, epochs=2), callbacks)
    shutil.move(tmp_path / "exp", tmp_path / "moved")
    train.main(build(TrainOptions, resume=str(tmp_path / "moved/weights/last.pt")))
    assert load_checkpoint(tmp_path / "moved/weights/last.pt")["epoch"] == -1
    assert not (tmp_path / "exp").exists()


def test_resume_refuses_what_it_cannot_do(base_run, tiny_dataset, tmp_path):
    with pytest.raises(InputError, match="finished run"):
        train.main(build(TrainOptions, resume=str(base_run / "weights/last.pt")))
    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=StopAt(1))
    penalized = options(tiny_dataset, tmp_path, train_sparity.SparseOptions, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train.main(penalized, callbacks)
    last = str(tmp_path / "exp/weights/last.pt")
    with pytest.raises(InputError, match="of sparse training"):
        train.main(build(TrainOptions, resume=last))
    with pytest.raises(InputError, match="leave out --epochs, --sr"):
        train_sparity.main(build(train_sparity.SparseOptions, resume=last, epochs=7, sr=0.5))


def test_an_existing_folder_keeps_no_results_of_an_earlier_run(base_run, tiny_dataset, tmp_path):
    shutil.copytree(base_run, tmp_path / "exp")
    train.main(options(tiny_dataset, tmp_path, epochs=1, seed=5, exist_ok=True))
    assert same(weights_of(tmp_path / "exp/weights/best.pt"), weights_of(tmp_path / "exp/weights/last.pt"))
    assert len((tmp_path / "exp/results.csv").read_text().splitlines()) == 2


def test_a_run_broken_off_after_its_last_epoch_is_only_finished(tiny_dataset, tmp_path):
    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=StopAt(1))
    with pytest.raises(KeyboardInterrupt):
        train.main(options(tiny_dataset, tmp_path, epochs=1), callbacks)
    train.main(build(TrainOptions, resume=str(tmp_path / "exp/weights/last.pt")))
    assert load_checkpoint(tmp_path / "exp/weights/last.pt")["epoch"] == -1
    assert len((tmp_path / "exp/results.csv").read_text().splitlines()) == 2
