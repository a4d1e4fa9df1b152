"""The training command end to end on drawn images: files, resume, sparsity, and what happens with bad input."""

from __future__ import annotations

import csv
import functools
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
import val
from models.loading import load_checkpoint
from prune_tools import finetune, train_sparity
from prune_tools.tuning.options import with_recipe
from tests.conftest import TINY_CFG
from tests.pruning_networks import prunable_norms
from utils.callbacks import HOOKS, Callbacks
from utils.commands.options import build
from utils.errors import InputError, MissingFileError
from utils.storage.files import ROOT, read_yaml, write_yaml
from utils.training.hyperparameters import read_hyperparameters
from utils.training.options import TrainOptions
from utils.training.trainer import Trainer

CFG = str(TINY_CFG)


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
    """Tell whether all entries are equal bit for bit."""
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


def test_training_learns(tiny_dataset, tmp_path):
    changes = dict.fromkeys(("mosaic", "scale", "translate", "hsv_h", "hsv_s", "hsv_v", "fliplr"), 0.0)
    hyp = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml") | changes | {"lr0": 0.2}
    write_yaml(tmp_path / "hyp.yaml", hyp)
    losses = []
    callbacks = Callbacks()
    callbacks.register_action("on_fit_epoch_end", callback=lambda values, *_: losses.append(sum(values[:3])))
    chosen = options(
        tiny_dataset,
        tmp_path,
        hyp=str(tmp_path / "hyp.yaml"),
        epochs=20,
        noval=True,
        nosave=True,
        optimizer="AdamW",
    )
    train.main(chosen, callbacks)
    assert losses[-1] < 0.8 * losses[0]


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
    stop, ordinary = StopAt(batches - 1), Callbacks.run

    def run(self: Callbacks, hook: str, *arguments: object, **keywords: object) -> None:
        ordinary(self, hook, *arguments, **keywords)
        if hook == "on_train_batch_end":
            stop()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Callbacks, "run", run)
        command(chosen)
    last = folder / "exp/weights/last.pt"
    assert load_checkpoint(last)["epoch"] == 1  # what was saved before the interruption is whole
    (last.parent / ".last-123-abc.pt").write_bytes(b"half a file")
    with (folder / "exp/results.csv").open("a") as file:
        file.write("                   2,   0.0")  # a line that was broken off
    command(build(options_class, resume=str(last)))
    assert not list(last.parent.glob(".*"))
    return folder / "exp"


COMMANDS = {
    "train": (train.main, TrainOptions, {"image_weights": True, "multi_scale": True}),
    "sparse": (train_sparity.main, train_sparity.SparseOptions, {"sr": 0.01}),
    "finetune": (finetune.main, finetune.FinetuneOptions, {}),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_resume_is_exact(tiny_dataset, tmp_path, name):
    """Killed in the middle of the last epoch; what it left half written is removed and repeated."""
    command, options_class, changes = COMMANDS[name]
    if name == "finetune":  # has no --cfg of its own
        train.main(options(tiny_dataset, tmp_path / "start", epochs=1))
        changes = changes | {"weights": str(tmp_path / "start/exp/weights/best.pt"), "cfg": ""}
    command(options(tiny_dataset, tmp_path / "whole", options_class, epochs=3, **changes))
    resumed = interrupted_then_resumed(tiny_dataset, tmp_path / "broken", command, options_class, **changes)
    assert same(weights_of(tmp_path / "whole/exp/weights/last.pt"), weights_of(resumed / "weights/last.pt"))
    assert (tmp_path / "whole/exp/results.csv").read_text() == (resumed / "results.csv").read_text()


# Trains, and is killed when the second last.pt is complete under its temporary name but not renamed yet.
KILLED = """
import os, signal, sys
from pathlib import Path
import train
from utils.commands.cli import run_command
from utils.commands.options import parse
from utils.training.options import TrainOptions

rename = os.replace

def replace(source, target, **keywords):
    if Path(target).name == "last.pt" and Path(target).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, **keywords)

os.replace = replace
run_command(lambda: train.main(parse(TrainOptions, "")))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_killed_process_is_resumed_exactly(tiny_dataset, tiny_cfg, tmp_path):
    """SIGKILL while a checkpoint is written: last.pt is that of the epoch before, and the end is the same."""
    train.main(options(tiny_dataset, tmp_path / "whole", epochs=3))
    command = [
        sys.executable, "-c", KILLED, "--data", tiny_dataset, "--cfg", tiny_cfg, "--weights", "", "--imgsz", 64,
        "--batch-size", 4, "--epochs", 3, "--workers", 0, "--device", "cpu", "--noplots", "--project", tmp_path / "cut",
    ]  # fmt: skip
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    weights = tmp_path / "cut/exp/weights"
    assert load_checkpoint(weights / "last.pt")["epoch"] == 0 and list(weights.glob(".draft-*"))
    train.main(build(TrainOptions, resume=str(weights / "last.pt")))
    assert not list(weights.glob(".draft-*"))
    for name in ("last.pt", "best.pt"):
        assert same(weights_of(tmp_path / "whole/exp/weights" / name), weights_of(weights / name))
    assert (tmp_path / "whole/exp/results.csv").read_text() == (tmp_path / "cut/exp/results.csv").read_text()


def test_what_follows_the_last_epoch_is_resumed(tiny_dataset, tmp_path, monkeypatch):
    """Broken off while best.pt is validated: no epoch is trained again, and the run ends as it would have."""
    whole = train.main(options(tiny_dataset, tmp_path / "whole", epochs=1))
    monkeypatch.setattr(Trainer, "_validate", stopped_when("verbose", Trainer._validate))
    with pytest.raises(KeyboardInterrupt):
        train.main(options(tiny_dataset, tmp_path / "broken", epochs=1))
    monkeypatch.undo()
    weights = tmp_path / "broken/exp/weights"
    before = weights_of(weights / "best.pt")
    monkeypatch.setattr("utils.training.trainer.train_one_epoch", lambda _: pytest.fail("an epoch was trained again"))
    assert train.main(build(TrainOptions, resume=str(weights / "last.pt"))) == whole
    assert same(before, weights_of(weights / "best.pt"))
    for name in ("best", "last"):
        assert load_checkpoint(weights / f"{name}.pt")["optimizer"] is None


def stopped_when(keyword, method):
    """``method``, but Ctrl-C where it is called with ``keyword``."""

    def call(*arguments, **keywords):
        if keyword in keywords:
            raise KeyboardInterrupt
        return method(*arguments, **keywords)

    return call


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


def test_histograms_reach_tensorboard(base_run, tiny_dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert EventAccumulator(str(base_run)).Reload().Tags()["histograms"] == ["bn_weights/hist"]
    train_sparity.main(options(tiny_dataset, tmp_path, train_sparity.SparseOptions, sr=0.01, epochs=1))
    events = EventAccumulator(str(tmp_path / "exp")).Reload().Tags()
    layers = prunable_norms(load_checkpoint(tmp_path / "exp/weights/last.pt")["model"].float())
    assert "bn_weights/hist" in events["histograms"]
    assert len(events["histograms"]) == 1 + len(layers)
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
    penalized = with_recipe(options(tiny_dataset, tmp_path, train_sparity.SparseOptions, epochs=2))
    with pytest.raises(KeyboardInterrupt):
        train.main(penalized, callbacks)
    last = str(tmp_path / "exp/weights/last.pt")
    with pytest.raises(InputError, match="of sparse training"):
        train.main(build(TrainOptions, resume=last))
    with pytest.raises(InputError, match=r"leave out --epochs, --sr$"):
        train_sparity.main(build(train_sparity.SparseOptions, resume=last, epochs=7, sr=0.5))


def test_an_existing_folder_keeps_no_results_of_an_earlier_run(base_run, tiny_dataset, tmp_path):
    shutil.copytree(base_run, tmp_path / "exp")
    train.main(options(tiny_dataset, tmp_path, epochs=1, seed=5, exist_ok=True))
    assert same(weights_of(tmp_path / "exp/weights/best.pt"), weights_of(tmp_path / "exp/weights/last.pt"))
    assert len((tmp_path / "exp/results.csv").read_text().splitlines()) == 2


def test_an_unfinished_run_is_not_resumed_with_the_options_of_the_next(tiny_dataset, tmp_path):
    """Both are killed, the second, in the same folder, before it has a checkpoint of its own."""
    for seed, hook in ((1, "on_model_save"), (2, "on_train_start")):
        callbacks = Callbacks()
        callbacks.register_action(hook, callback=StopAt(1))
        chosen = options(tiny_dataset, tmp_path, seed=seed, exist_ok=True)
        with pytest.raises(KeyboardInterrupt):
            train.main(chosen, callbacks)
    assert read_yaml(tmp_path / "exp/opt.yaml")["seed"] == 2
    with pytest.raises(MissingFileError, match=r"last\.pt"):
        train.main(build(TrainOptions, resume=str(tmp_path / "exp/weights/last.pt")))
    earlier = load_checkpoint(tmp_path / "exp/weights/earlier_last.pt")
    assert (earlier["opt"]["seed"], earlier["epoch"]) == (1, 0)  # nothing is lost


def test_a_run_broken_off_after_its_last_epoch_is_only_finished(tiny_dataset, tmp_path):
    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=StopAt(1))
    with pytest.raises(KeyboardInterrupt):
        train.main(options(tiny_dataset, tmp_path, epochs=1), callbacks)
    train.main(build(TrainOptions, resume=str(tmp_path / "exp/weights/last.pt")))
    assert load_checkpoint(tmp_path / "exp/weights/last.pt")["epoch"] == -1
    assert len((tmp_path / "exp/results.csv").read_text().splitlines()) == 2


def test_a_stopped_run_does_not_go_on(tiny_dataset, tmp_path, monkeypatch):
    """Killed after early stopping and before its end: resuming finishes it without another epoch."""
    merits = iter([0.2, 0.1, 0.1])
    monkeypatch.setattr("utils.training.trainer.fitness", lambda _: [next(merits)])
    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=StopAt(3))
    chosen = options(tiny_dataset, tmp_path, epochs=9, patience=2)
    with pytest.raises(KeyboardInterrupt):
        train.main(chosen, callbacks)
    train.main(build(TrainOptions, resume=str(tmp_path / "exp/weights/last.pt")))
    assert len((tmp_path / "exp/results.csv").read_text().splitlines()) == 4
    assert load_checkpoint(tmp_path / "exp/weights/last.pt")["epoch"] == -1


def test_best_is_written_before_last(tiny_dataset, tmp_path, monkeypatch):
    """A run killed between the two repeats the epoch; the other way round it would never write best.pt again."""
    from utils import checkpoint

    written: list[str] = []
    original = checkpoint.atomic_path
    monkeypatch.setattr(checkpoint, "atomic_path", lambda path: (written.append(Path(path).name), original(path))[1])
    train.main(options(tiny_dataset, tmp_path, epochs=1, save_period=1))
    assert written == ["best.pt", "epoch0.pt", "last.pt", "best.pt", "last.pt"]  # saved, then stripped


def test_hooks_fire_at_their_documented_moments(tiny_dataset, asked_pictures, tmp_path):
    fired: list[str] = []
    callbacks = Callbacks()
    arguments: dict[str, tuple] = {}

    def listen(hook: str, *values: object, **keywords: object) -> None:
        fired.append(hook)
        arguments[hook] = (*values, *keywords)

    for hook in HOOKS:
        callbacks.register_action(hook, callback=functools.partial(listen, hook))
    chosen = options(tiny_dataset, tmp_path, epochs=1, batch_size=-1, noplots=False)
    train.main(chosen, callbacks)
    validation = ["on_val_start", "on_val_batch_start", "on_val_image_end", "on_val_batch_end"]
    step = ["on_before_optimizer_step", "optimizer_step", "on_before_zero_grad"]
    assert list(dict.fromkeys(fired)) == [
        "on_pretrain_routine_start", "on_params_update", "on_pretrain_routine_end", "on_training_ready",
        "on_train_start", "on_train_epoch_start", "on_train_batch_start", *step, "on_train_batch_end",
        "on_train_epoch_end", *validation, "on_fit_epoch_end", "on_model_save", "on_val_end", "on_train_end",
        "teardown",
    ]  # fmt: skip
    assert set(fired) == set(HOOKS)
    assert fired.count("on_train_batch_start") == 1  # 12 images in a batch of 16
    assert fired.count("on_val_start") == 2  # the epoch, and best.pt
    assert arguments["on_params_update"] == ({"batch_size": 16},)
    assert arguments["on_train_epoch_end"] == ("epoch",)
    lengths = {
        "on_train_batch_end": 6,
        "on_fit_epoch_end": 4,
        "on_model_save": 5,
        "on_train_end": 5,
        "on_val_image_end": 5,
    }
    assert {hook: len(arguments[hook]) for hook in lengths} == lengths


def test_one_registry_serves_several_runs(tiny_dataset, tmp_path):
    callbacks = Callbacks()
    for name in ("first", "second"):
        train.main(options(tiny_dataset, tmp_path, epochs=1, noval=True, name=name), callbacks)
    assert [len((tmp_path / name / "results.csv").read_text().splitlines()) for name in ("first", "second")] == [2, 2]
