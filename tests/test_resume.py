"""Continuing a run: what its folder may decide, damaged records, moved and changed data."""

from __future__ import annotations

import copy
import dataclasses
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
from models.loading import load_checkpoint
from prune_tools.finetune import FinetuneOptions
from prune_tools.pipeline_options import PipelineOptions
from prune_tools.pipeline_run import RECORD, Pipeline
from prune_tools.train_sparity import SparseOptions
from tests.conftest import draw_tiny_dataset
from tests.training_runs import prepared_trainer
from utils.callbacks import Callbacks
from utils.commands.options import CALL, FOLDER, KEPT, OPEN, build
from utils.dataset.record import changes, record_of
from utils.errors import InputError, MissingFileError
from utils.loggers import RESULT_COLUMNS
from utils.storage.files import ROOT, read_yaml, write_yaml
from utils.training.evolve import Evolution
from utils.training.hyperparameters import read_hyperparameters
from utils.training.optim import smart_optimizer
from utils.training.options import TrainOptions
from utils.training.resume import resume_options, trim_results
from utils.training.resume_checks import Judge, check_optimizer, judge
from utils.training.resume_record import restore
from utils.training.run_folder import RunFolder
from utils.training.state import TrainingState
from utils.training.stopping import BestEpoch
from utils.training.trainer import Trainer

EPOCHS = 3


def stop_after(epoch: int) -> Callbacks:
    """Callbacks that break a run off when the checkpoint of ``epoch`` has been written."""

    def stop(_: Any, saved: int, *__: Any) -> None:
        if saved == epoch:
            raise KeyboardInterrupt

    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=stop)
    return callbacks


@pytest.fixture(scope="module")
def broken_off(tiny_cfg: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and run/, a run of three epochs that ended after the second. Tests must not change it."""
    folder = tmp_path_factory.mktemp("broken off")
    draw_tiny_dataset(folder / "data")
    options = build(
        TrainOptions, data=str(folder / "data/tiny.yaml"), cfg=str(tiny_cfg), weights="", imgsz=64, batch_size=4,
        epochs=EPOCHS, workers=0, device="cpu", project=str(folder), name="run", noplots=True, cache="none",
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        train.main(options, stop_after(1))
    return folder


@pytest.fixture
def run(broken_off: Path, tmp_path: Path) -> Path:
    """A copy of the run folder, for a test to change."""
    return Path(shutil.copytree(broken_off / "run", tmp_path / "run"))


def rewrite(run: Path, **changes: Any) -> None:
    write_yaml(run / "opt.yaml", read_yaml(run / "opt.yaml") | changes)


def resumed(run: Path, options_class: type = TrainOptions, **given: Any) -> Any:
    return resume_options(build(options_class, resume=str(run / "weights/last.pt"), **given))


# -- what the record may decide --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options_class", [TrainOptions, SparseOptions, FinetuneOptions])
def test_every_option_says_what_a_resumed_run_does_with_it(options_class):
    fields = {field.name: field for field in dataclasses.fields(options_class)}
    assert {field.metadata["on_resume"] for field in fields.values()} == {KEPT, OPEN, FOLDER, CALL}
    by_policy = {
        policy: {name for name, field in fields.items() if field.metadata["on_resume"] == policy}
        for policy in (FOLDER, CALL)
    }
    assert by_policy[CALL] == {"allow_download_scripts", "evolve", "local_rank", "logger"}
    assert by_policy[FOLDER] == {"resume", "hyp", "project", "name", "exist_ok"}


def test_the_record_gives_no_consent_and_no_place_to_write(run, tmp_path):
    rewrite(run, allow_download_scripts=True, evolve=3, project=str(tmp_path / "elsewhere"), name="other",
            save_dir=str(tmp_path / "elsewhere/other"), local_rank=2, hyp={"lr0": 5}, resume="/other.pt")  # fmt: skip
    found = resumed(run)
    options = found.options
    assert (options.allow_download_scripts, options.evolve, options.local_rank) == (False, None, -1)
    assert Path(options.project) / options.name == run == found.folder
    assert (options.hyp, options.resume) == (str(run / "hyp.yaml"), str(run / "weights/last.pt"))
    assert resumed(run, allow_download_scripts=True).options.allow_download_scripts  # this command line's


def test_a_script_or_an_address_of_the_run_folder_is_not_used(run, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.dataset.description.provide", lambda *_: pytest.fail("something was fetched"))
    for address in ('bash -c "touch CANARY"', "https://example.com/data.zip"):
        description = {"path": str(tmp_path / "none"), "train": "images", "val": "images", "names": ["disc", "square"]}
        write_yaml(run / "data.yaml", description | {"download": address})
        rewrite(run, data=str(run / "data.yaml"), allow_download_scripts=True)
        with pytest.raises(MissingFileError, match=r"opt\.yaml names this data set.*add --data"):
            resumed(run).dataset()


@pytest.mark.parametrize("name", ["data", "teacher"])
def test_a_recorded_address_is_not_fetched(run, name):
    rewrite(run, **{"recipe": "gentle", "teacher": "", "weights": "", name: "https://example.com/a.pt"})
    with pytest.raises(InputError, match=f"nothing is downloaded for a record.*--{name}"):
        resumed(run, FinetuneOptions)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "many"), ("epochs", True), ("epochs", None), ("epochs", 0), ("imgsz", 64.5), ("imgsz", [64]),
        ("data", 5), ("rect", "yes"), ("freeze", 3), ("freeze", ["a"]), ("label_smoothing", "0.1"), ("amp", "fast"),
        ("cache", ["ram"]), ("device", {"a": 1}), ("batch_size", float("nan")), ("optimizer", "LBFGS"), ("seed", -1),
    ],
)  # fmt: skip
def test_a_damaged_record_is_one_line(run, name, value):
    rewrite(run, **{name: value})
    if (name, value) == ("epochs", None):
        assert resumed(run).options.epochs == TrainOptions.epochs  # as not given
        return
    with pytest.raises(InputError, match=name.replace("_", ".")) as caught:
        resumed(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "1: 2\n", "a: [\n"])
def test_a_record_that_is_none(run, content):
    (run / "opt.yaml").write_text(content)
    with pytest.raises(InputError, match=r"opt\.yaml"):
        resumed(run)


def test_options_of_other_programs_are_named(run):
    rewrite(run, upload_dataset=False, entity=None, cache=None)
    found = resumed(run)
    assert "ignored: upload_dataset, entity" in found.notes[0]
    assert found.options.cache == "auto"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_that_leave_the_run_folder_are_refused(run, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (run / "results.csv").unlink()
    (run / "results.csv").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match=r"results\.csv is a link"):
        resumed(run)


# -- what this command line may change -------------------------------------------------------------------------------


def test_open_options_may_change_and_it_is_said(run, broken_off, tmp_path):
    moved = Path(shutil.copytree(broken_off / "data", tmp_path / "moved")) / "tiny.yaml"
    write_yaml(moved, read_yaml(moved) | {"path": str(moved.parent)})
    found = resumed(run, data=str(moved), workers=1, cache="ram", device="cpu")
    assert (found.options.data, found.options.workers, found.options.cache) == (str(moved), 1, "ram")
    assert [note.split()[2] for note in found.notes] == ["--data", "--cache", "--workers"]
    assert found.named_data
    assert found.dataset()["path"] == str(moved.parent)


def test_options_that_make_the_run_may_not(run, tmp_path):
    with pytest.raises(InputError, match=r"opt\.yaml: leave out --epochs, --imgsz, --single-cls, --seed"):
        resumed(run, epochs=7, imgsz=32, single_cls=True, seed=3)
    for given in ({"project": str(tmp_path / "other")}, {"name": "other"}):
        with pytest.raises(InputError, match=f"leave out --{next(iter(given))}"):
            resumed(run, **given)
    hyp = read_yaml(run / "hyp.yaml")
    write_yaml(tmp_path / "same.yaml", hyp)
    write_yaml(tmp_path / "other.yaml", hyp | {"lr0": 0.5})
    assert resumed(run, hyp=str(tmp_path / "same.yaml")).options.hyp == str(run / "hyp.yaml")
    with pytest.raises(InputError, match="leave out --hyp"):
        resumed(run, hyp=str(tmp_path / "other.yaml"))
    assert resumed(run, project=str(run.parent), name=run.name, exist_ok=True, imgsz=64, epochs=EPOCHS)


def test_moved_data_name_the_record_and_the_remedy(run, broken_off, tmp_path):
    rewrite(run, data=str(tmp_path / "gone.yaml"))
    with pytest.raises(MissingFileError, match=r"opt\.yaml names .*gone\.yaml for --data.*add --data"):
        resumed(run)
    moved = tmp_path / "images gone.yaml"
    write_yaml(moved, read_yaml(broken_off / "data/tiny.yaml") | {"path": str(tmp_path / "nowhere")})
    rewrite(run, data=str(moved))
    with pytest.raises(MissingFileError, match=r"images not found.*opt\.yaml names this data set.*--data NEW"):
        resumed(run).dataset()


def test_files_are_recorded_by_absolute_paths_and_found_from_anywhere(run, broken_off, tmp_path, monkeypatch):
    monkeypatch.chdir(broken_off)
    options = build(TrainOptions, data="data/tiny.yaml", weights="none.pt", cfg="")
    record = RunFolder(run)._record(options, {})
    assert (record["data"], record["weights"], record["cfg"]) == (str(broken_off / "data/tiny.yaml"), "none.pt", "")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(broken_off / "data", tmp_path / "work/data")
    shutil.copytree(run, tmp_path / "work/runs/train/exp")
    rewrite(tmp_path / "work/runs/train/exp", data="data/tiny.yaml")  # as earlier versions recorded it
    assert resumed(tmp_path / "work/runs/train/exp").options.data == str(tmp_path / "work/data/tiny.yaml")


def test_a_run_goes_on_with_moved_data_from_another_folder_exactly(run, broken_off, tmp_path, monkeypatch, caplog):
    """The same images at another place and another working folder give the same weights, without a warning."""
    monkeypatch.chdir(tmp_path)
    whole = shutil.copytree(run, tmp_path / "whole")
    train.main(build(TrainOptions, resume=str(whole / "weights/last.pt")))
    data = Path(shutil.copytree(broken_off / "data", tmp_path / "moved"))
    write_yaml(data / "tiny.yaml", read_yaml(data / "tiny.yaml") | {"path": str(data)})
    rewrite(run, data=str(tmp_path / "gone.yaml"))
    caplog.clear()
    caplog.set_level("INFO")
    train.main(build(TrainOptions, resume=str(run / "weights/last.pt"), data="moved/tiny.yaml"))
    assert "has changed" not in caplog.text
    assert "Resuming with --data moved/tiny.yaml instead of" in caplog.text
    assert read_yaml(run / "opt.yaml")["data"] == str(data / "tiny.yaml")
    first, second = (load_checkpoint(folder / "weights/last.pt")["model"].state_dict() for folder in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)


# -- damaged checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(broken_off: Path, tiny_cfg: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A trainer of such a run before its first epoch."""
    found = resumed(broken_off / "run")
    options = replace(found.options, resume=False, weights="", cfg=str(tiny_cfg))
    return prepared_trainer(options, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def checkpoint(broken_off: Path) -> dict[str, Any]:
    return load_checkpoint(broken_off / "run/weights/last.pt")


def put_back(checkpoint: dict[str, Any], trainer: Trainer) -> TrainingState:
    state = replace(trainer.state, best=BestEpoch(100))
    restore(checkpoint, judge(checkpoint, "last.pt"), state, "last.pt")
    return state


def test_an_undamaged_checkpoint_is_put_back(checkpoint, prepared):
    state = put_back(checkpoint, prepared)
    assert (state.first_epoch, len(state.maps)) == (2, 2)
    assert 0 <= state.best.fitness <= 1
    again = judge(checkpoint, "last.pt")
    assert again.exact and set(again.data) == {"train", "val"}


WRONG: list[Any] = [
    "text", -7, 10**30, 2.5, float("nan"), float("inf"), [], {}, (), [1, "a"], {"a": 1}, torch.zeros(3),
    torch.full((2, 2), float("nan")), True, b"\x00",
]  # fmt: skip
NUMPY_STATE = 3, 625
EXPECTED_FIELDS = {
    "epoch": WRONG, "best_fitness": WRONG, "updates": WRONG, "optimizer": WRONG, "resume": WRONG, "ema": WRONG,
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED_FIELDS)
def test_a_wrong_field_is_one_line(checkpoint, prepared, name):
    for value in EXPECTED_FIELDS[name]:
        refuses_in_one_line({**checkpoint, name: value}, prepared, name)


RESUME_FIELDS = (
    "python", "numpy", "torch", "cuda", "loader", "scaler", "maps", "last_step", "accumulate", "best_grade", "plugins",
    "stopper", "data",
)  # fmt: skip


@pytest.mark.parametrize("name", RESUME_FIELDS)
def test_a_wrong_field_of_the_resume_record_is_one_line(checkpoint, prepared, name):
    assert set(checkpoint["resume"]) == set(RESUME_FIELDS)
    for value in WRONG:
        refuses_in_one_line({**checkpoint, "resume": {**checkpoint["resume"], name: value}}, prepared, name)
    if name not in ("best_grade", "plugins", "data"):  # which earlier versions did not write
        missing = {key: value for key, value in checkpoint["resume"].items() if key != name}
        with pytest.raises(InputError, match=name):
            put_back({**checkpoint, "resume": missing}, prepared)


def refuses_in_one_line(damaged: dict[str, Any], trainer: Trainer, name: str) -> bool:
    """Tell whether it is refused, in one line that names the field; other exceptions fail the test."""
    try:
        put_back(damaged, trainer)
    except InputError as error:
        assert "\n" not in str(error)
        assert name in str(error) and "last.pt" in str(error)
        return True
    return False


def test_random_damage_never_ends_in_a_traceback(checkpoint, prepared):
    """200 checkpoints with something wrong somewhere below optimizer and resume: numbers, tensors, keys, lengths."""
    chance, refused = random.Random(0), 0
    for _ in range(200):
        damaged = {**checkpoint, **copy.deepcopy({key: checkpoint[key] for key in ("optimizer", "resume", "epoch")})}
        damage(damaged, chance)
        refused += refuses_in_one_line(damaged, prepared, "")
    assert refused > 100
    put_back(checkpoint, prepared)  # nothing has been left broken


def damage(content: dict[str, Any], chance: random.Random) -> None:
    """Walk down to a random place and put something wrong there."""
    holder, key = content, chance.choice(["optimizer", "resume"])
    while chance.random() < 0.8 and isinstance(holder[key], (dict, list, tuple)) and len(holder[key]):
        if isinstance(holder[key], tuple):
            holder[key] = list(holder[key])
        holder = holder[key]
        key = chance.choice(list(holder)) if isinstance(holder, dict) else chance.randrange(len(holder))
    if isinstance(holder, dict) and chance.random() < 0.2:
        del holder[key]
    elif isinstance(holder[key], torch.Tensor) and chance.random() < 0.5:
        holder[key] = chance.choice([holder[key][:0] if holder[key].ndim else -holder[key], holder[key].to(torch.int8)])
    else:
        holder[key] = chance.choice(WRONG)


def test_a_state_beyond_its_table_is_not_given_to_numpy(checkpoint, prepared):
    name, keys, _, *rest = checkpoint["resume"]["numpy"]
    for position in (-1, 625, 10**9):
        resume = {**checkpoint["resume"], "numpy": (name, keys, position, *rest)}
        with pytest.raises(InputError, match="numpy"):
            put_back({**checkpoint, "resume": resume}, prepared)


def test_judging_draws_no_random_numbers(checkpoint):
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    judge(checkpoint, "last.pt")
    assert states[0] == random.getstate()
    assert (states[1] == np.random.get_state()[1]).all()
    assert torch.equal(states[2], torch.get_rng_state())


def test_an_epoch_beyond_the_run(checkpoint, prepared):
    with pytest.raises(InputError, match=r"epoch.*3, but the run in opt\.yaml has 3 epochs"):
        put_back({**checkpoint, "epoch": 3}, prepared)


# -- results.csv -----------------------------------------------------------------------------------------------------

HEADER = ",".join(f"{name:>20}" for name in ("epoch", *RESULT_COLUMNS)) + "\n"


def row(epoch: int | str, value: str = "0.5") -> str:
    return ",".join([f"{epoch:>20}", *[f"{value:>20}"] * len(RESULT_COLUMNS)]) + "\n"


@pytest.mark.parametrize("end", ["", row(2)[:40], row(2), row(2) + row(3)[:-1], "\n"])
def test_rows_that_will_be_written_again_go_without_a_word(tmp_path, caplog, end):
    file = tmp_path / "results.csv"
    file.write_text(HEADER + row(0) + row(1) + end.lstrip("\n"))
    trim_results(file, 2)
    assert file.read_text() == HEADER + row(0) + row(1)
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", 0), (b"\n", 0), (HEADER[:30].encode(), 0), (HEADER.encode(), 0), (b"\xff\xfe\x00" * 40, 0),
        ((HEADER + row(0) + row("one")).encode(), 1), ((HEADER + row(0) + row(1, "word")).encode(), 1),
        ((HEADER + row(0)).encode() + row(1).encode()[:50] + b"\xe4\xb8\n" + row(1).encode(), 2),
        ((HEADER + row(0) + row(1)[:-22] + "\n").encode(), 1), ((row(0) + row(1)).encode(), 2),
        ((HEADER + row(0) + row(0) + row(1)).encode(), 2),
    ],
)  # fmt: skip
def test_damaged_results_are_mended_with_a_word_and_nothing_is_lost(tmp_path, caplog, content, kept):
    file = tmp_path / "results.csv"
    file.write_bytes(content)
    trim_results(file, 2)
    assert file.read_text() == HEADER + "".join(row(epoch) for epoch in range(kept))
    assert (tmp_path / "results_damaged.csv").read_bytes() == content
    assert f"{kept} of the 2 rows" in caplog.text


# -- changed data ----------------------------------------------------------------------------------------------------


def records(*rows: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)


def test_differences_of_data_in_words():
    before = records((1, 10, 100), (2, 20, 200), (3, 30, 300))
    assert changes(before, before.clone()) == ""
    assert changes(before, before[[0, 2, 1]]) == "the images come in another order"
    assert changes(before, before[:1]) == "2 of 3 images are gone"
    assert changes(before, records(*before.tolist(), (4, 40, 400))) == "1 images are new"
    assert changes(before, records((1, 11, 100), (2, 20, 201), (3, 31, 301))) == (
        "2 images are replaced, the labels of 2 images are different"
    )
    twins = records((1, 10, 100), (1, 20, 200))
    assert changes(twins, records((1, 20, 200), (1, 10, 101))) == "the labels of 1 images are different"
    assert changes(twins, twins[:1]) == "1 of 2 images are gone"


def test_moved_images_are_the_same(prepared, broken_off, tmp_path):
    dataset = copy.copy(prepared.state.loader.dataset)
    dataset.im_files = [str(tmp_path / "moved" / Path(file).name) for file in prepared.state.loader.dataset.im_files]
    shutil.copytree(Path(prepared.state.loader.dataset.im_files[0]).parent, tmp_path / "moved")
    assert torch.equal(record_of(dataset), record_of(prepared.state.loader.dataset))


def test_changed_data_are_said_and_the_run_goes_on(run, broken_off, tmp_path, caplog):
    data = Path(shutil.copytree(broken_off / "data", tmp_path / "changed"))
    write_yaml(data / "tiny.yaml", read_yaml(data / "tiny.yaml") | {"path": str(data)})
    for index in range(3):
        (data / f"images/train/{index:03d}.jpg").unlink()
    shutil.copy(data / "images/train/004.jpg", data / "images/train/new.jpg")
    shutil.copy(data / "images/train/005.jpg", data / "images/train/006.jpg")
    (data / "labels/val/000.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    rewrite(run, data=str(data / "tiny.yaml"))
    train.main(build(TrainOptions, resume=str(run / "weights/last.pt")))
    line = next(text for text in caplog.messages if "has changed" in text)
    assert "train: 3 of 12 images are gone, 1 images are new, 1 images are replaced" in line
    assert "val: the labels of 1 images are different" in line
    assert len((run / "results.csv").read_text().splitlines()) == 1 + EPOCHS


def test_other_classes_are_refused_and_other_names_said(run, broken_off, tmp_path, caplog):
    description = read_yaml(broken_off / "data/tiny.yaml")
    other = tmp_path / "other.yaml"
    write_yaml(other, description | {"names": ["a", "b", "c"], "nc": 3})
    with pytest.raises(InputError, match=r"last\.pt has 2 classes but .*other\.yaml has 3"):
        train.main(build(TrainOptions, resume=str(run / "weights/last.pt"), data=str(other)))
    write_yaml(other, description | {"names": ["disc", "box"]})
    train.main(build(TrainOptions, resume=str(run / "weights/last.pt"), data=str(other)))
    assert "class 1 was square and is box" in caplog.text


# -- other records ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [b"", b"\xff\x00\n", b"a,b\n", "word", "short"])
def test_a_damaged_record_of_an_evolution_is_one_line(tmp_path, change):
    hyp = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")
    evolution = Evolution(tmp_path, hyp)
    evolution.record(evolution.propose(), [0.5] * 7)
    whole = evolution.file.read_text()
    lines = {"word": whole.replace("0.5,", "half,", 1), "short": whole[:-30] + "\n"}
    evolution.file.write_bytes(change if isinstance(change, bytes) else lines[change].encode())
    with pytest.raises(InputError, match=r"evolve\.csv is damaged"):
        Evolution(tmp_path, hyp)
    evolution.file.write_text(whole)
    assert len(Evolution(tmp_path, hyp).results) == 1


@pytest.mark.parametrize(
    "entry",
    [
        None, [], {}, {"folder": "base", "checkpoint": ""}, {"options": {}, "folder": 3, "checkpoint": ""},
        {"options": {}, "folder": "../elsewhere", "checkpoint": ""},
        {"options": {}, "folder": "base", "checkpoint": "/etc/passwd"},
    ],
)  # fmt: skip
def test_a_damaged_record_of_a_pipeline_is_one_line(tmp_path, entry):
    (tmp_path / "exp").mkdir()
    write_yaml(tmp_path / "exp" / RECORD, {"base": entry})
    with pytest.raises(InputError, match=r"pipeline\.yaml is damaged at 'base'"):
        Pipeline(build(PipelineOptions, project=str(tmp_path)))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSProp"])
def test_moments_of_another_form(name):
    """A kernel would stop at them in the first step, or go beyond their memory."""
    layer = torch.nn.Conv2d(3, 3, 1)
    optimizer = smart_optimizer(layer, name)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    layer(torch.ones(1, 3, 2, 2)).sum().backward()
    optimizer.step()
    good = copy.deepcopy(optimizer.state_dict())
    check_optimizer(Judge("last.pt"), optimizer, good)
    moments = [key for key in good["state"][0] if key != "step"]
    wrong = [{**good["state"][0], key: value} for key in moments for value in (3.0, torch.ones(()), torch.ones(1, 3))]
    wrong += [{**good["state"][0], "step": torch.ones(3)}]
    wrong += [{"step": 1.0}] if name != "SGD" else []
    for state in wrong:
        with pytest.raises(InputError, match="'optimizer"):
            check_optimizer(Judge("last.pt"), optimizer, {**good, "state": {**good["state"], 0: state}})
    other = copy.deepcopy(good)
    other["param_groups"][0]["maximize"] = True
    with pytest.raises(InputError, match="maximize"):
        check_optimizer(Judge("last.pt"), optimizer, other)
