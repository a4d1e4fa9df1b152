"""Several processes train like one; who is who, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.loading import load_checkpoint
from models.yolo import DetectionModel
from tests.rank_probe import EPOCHS, RATE, observe, write_hyperparameters
from utils import distributed
from utils.callbacks import HOOKS
from utils.checkpoint import portable_copy, save_checkpoint
from utils.commands.options import build
from utils.distributed import World, check_options, current_world, device_of_rank, launch, plain_norms
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT
from utils.training.options import TrainOptions

TOLERANCE = 1e-6  # of weights of about 1: sums over two ranks are rounded in another order


# -- two real processes against one --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arguments(tiny_dataset: Path, tiny_cfg: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of all the runs compared here: mosaics, mixed images, a penalty."""
    hyp = write_hyperparameters(tmp_path_factory.mktemp("hyp"))
    return {"data": str(tiny_dataset), "cfg": str(tiny_cfg), "hyp": hyp, "batch_size": 4}


@pytest.fixture(scope="module")
def alone(arguments: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what one process sees."""
    return observe(tmp_path_factory.mktemp("alone"), **arguments)


@pytest.fixture(scope="module")
def pair(arguments: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each of two gloo processes sees that share the batches of the one."""
    folder = tmp_path_factory.mktemp("pair")
    torchrun(Path(__file__).with_name("rank_probe.py"), str(folder), json.dumps(arguments))
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def torchrun(script: str | Path, *arguments: str) -> str:
    """Start a script in two processes; returns what they wrote to stderr."""
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*starter, str(script), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_two_processes_end_with_the_weights_of_one(alone, pair):
    first, second = (rank["weights"] for rank in pair)
    moved = 0.0
    for name, value in alone["weights"].items():
        assert torch.equal(first[name], second[name]), name
        if value.is_floating_point():
            torch.testing.assert_close(first[name], value, atol=TOLERANCE, rtol=0)
            if name.endswith("bn.weight"):
                moved = max(moved, float((value - 1).abs().max()))
    assert moved > 0.01  # far more than the tolerance


def test_ranks_share_every_batch_and_draw_other_augmentations(alone, pair):
    assert len(alone["images"]) == EPOCHS * 3
    for batch, first, second in zip(alone["images"], *(rank["images"] for rank in pair), strict=True):
        assert len(first) == len(second) == 2
        assert sorted(first + second) == pytest.approx(sorted(batch))
        assert not set(first) & set(second)


def test_results_are_those_of_the_first_rank_everywhere(pair):
    assert pair[0]["results"] == pair[1]["results"]
    assert pair[0]["results"][4] > 0  # a validation loss


def test_the_threads_of_the_group_end_with_it(pair):
    """One that is left when the interpreter ends may abort the process."""
    for rank in pair:
        assert not [name for name in rank["threads"] if "gloo" in name]


def test_some_hooks_run_on_the_first_rank_only(pair):
    of_first = {"on_pretrain_routine_end", "on_train_batch_end", "on_model_save", "on_train_end"}
    validation = {"on_val_start", "on_val_batch_start", "on_val_image_end", "on_val_batch_end"}
    assert pair[0]["hooks"] - pair[1]["hooks"] == of_first | validation
    assert pair[1]["hooks"] == set(HOOKS) - of_first - validation - {"on_val_end", "on_params_update"}


def test_the_pruning_commands_train_in_several_processes(arguments, tmp_path):
    common = {"data": arguments["data"], "imgsz": 64, "batch-size": 4, "epochs": 1, "workers": 0, "device": "cpu"}
    flags = [f"--{name}={value}" for name, value in (common | {"project": tmp_path}).items()] + ["--noplots"]
    model = DetectionModel(arguments["cfg"])
    model.names = ["disc", "square"]
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, tmp_path / "start.pt")
    sparse = ("--penalty=polarize", "--round-to=1", f"--weights={tmp_path / 'start.pt'}", "--name=sparse")
    told = torchrun("prune_tools/train_sparity.py", *flags, *sparse)
    assert told.count("Sparse training:") == told.count("Results saved to") == 1  # one process reports
    assert told.count("where this run starts...") == 1  # and measures
    (tmp_path / "start.pt").unlink()
    best = tmp_path / "sparse/weights/best.pt"
    torchrun("prune_tools/finetune.py", *flags, f"--weights={best}", "--name=tuned")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sparse", "tuned"]
    assert load_checkpoint(tmp_path / "tuned/weights/last.pt")["epoch"] == -1


def check_penalty(seen: dict[str, Any]) -> None:
    """Every step adds the published rate for each batch that it applies, and no batch is left out."""
    assert seen["penalties"]
    for step in seen["penalties"]:
        expected = RATE * (1 - 0.9 * step["epoch"] / EPOCHS) * step["batches"]
        assert step["lowest"] == pytest.approx(expected, rel=1e-4)
        assert step["highest"] == pytest.approx(expected, rel=1e-4)
    assert sum(step["batches"] for step in seen["penalties"]) == len(seen["images"])


def test_the_penalty_does_not_depend_on_the_ranks(alone, pair):
    for seen in (alone, *pair):
        check_penalty(seen)
    assert pair[0]["penalties"] == pair[1]["penalties"]
    assert [step["batches"] for step in alone["penalties"]] == [step["batches"] for step in pair[0]["penalties"]]


def test_the_penalty_does_not_depend_on_mixed_precision(arguments, tmp_path):
    seen = observe(tmp_path, **arguments, amp="bfloat16")
    check_penalty(seen)


def test_the_penalty_does_not_depend_on_accumulation(arguments, tmp_path):
    seen = observe(tmp_path, **(arguments | {"batch_size": 2}))
    check_penalty(seen)
    assert max(step["batches"] for step in seen["penalties"]) > 2  # gradients were accumulated


# -- who is who ----------------------------------------------------------------------------------------------------


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> World:
    """The environment of the second of two processes."""
    for name, value in (("RANK", 1), ("LOCAL_RANK", 1), ("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    return current_world()


def test_the_environment_says_which_process_this_is(second_of_two, monkeypatch):
    assert second_of_two == World(1, 1, 2, 2) and not second_of_two.is_main
    monkeypatch.delenv("RANK")
    with pytest.raises(InputError, match="start with torchrun"):
        current_world()
    monkeypatch.delenv("LOCAL_RANK")
    assert current_world() == World() and World().is_main


def test_each_rank_has_its_place_in_the_device_list(second_of_two, monkeypatch):
    assert device_of_rank("2,3", second_of_two) == "3"
    assert device_of_rank("cpu", second_of_two) == "cpu"
    assert device_of_rank("2,3", World()) == "2,3"
    with pytest.raises(InputError, match="2 processes but 1 device"):
        device_of_rank("0", second_of_two)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of_rank("", second_of_two) == "1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of_rank("", second_of_two) == ""  # CPUs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evolve": 3}, "--evolve works in a single process"),
        ({"image_weights": True}, "--image-weights works in a single process"),
        ({"batch_size": 5}, "multiple of that"),
        ({"batch_size": -1}, "multiple of that"),
        ({"local_rank": 0}, "LOCAL_RANK, which is 1"),
    ],
)
def test_what_several_processes_cannot_do(second_of_two, changes, message):
    with pytest.raises(InputError, match=message):
        check_options(build(TrainOptions, **changes), second_of_two)
    check_options(build(TrainOptions, batch_size=6, local_rank=1, sync_bn=True), second_of_two)


def test_what_a_single_process_cannot_do():
    with pytest.raises(InputError, match="not set: start with torchrun"):
        check_options(build(TrainOptions, local_rank=0), World())


def test_several_devices_start_one_process_each(monkeypatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(distributed, "run_child", lambda command: commands.append(command) or 3)
    monkeypatch.setattr(sys, "argv", ["train.py", "--device", "0,1"])
    monkeypatch.setattr("utils.distributed.select_device", lambda name: torch.device("cuda", int(name)))
    with pytest.raises(SystemExit) as ending:
        launch(lambda options: pytest.fail("trained in this process"), build(TrainOptions, device="0,1"))
    assert ending.value.code == 3  # what the processes ended with
    assert commands == [
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *sys.argv]
    ]
    assert launch(lambda options: options.device, build(TrainOptions, device="cpu")) == "cpu"


def test_a_list_with_a_missing_device_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="not available"):
        launch(lambda options: None, build(TrainOptions, device="0,1"))


# -- synchronised batch norm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [World(), World(rank=0, local_rank=0, size=1, local_size=1)])
def test_a_single_process_has_nothing_to_synchronise(world, caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level("INFO", LOGGER.name):
        check_options(build(TrainOptions, sync_bn=True, local_rank=world.local_rank), world)
    assert "--sync-bn has nothing to join" in caplog.text


def test_saved_models_have_ordinary_batch_norms():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.03)))
    network(torch.randn(2, 3, 4, 4))
    joined = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    joined[1][0].weight.requires_grad = False
    saved = portable_copy(joined, half=False)
    norm = saved[1][0]
    assert type(norm) is nn.BatchNorm2d and (norm.eps, norm.momentum) == (1e-3, 0.03)
    assert not norm.weight.requires_grad and norm.bias.requires_grad
    assert all(torch.equal(value, joined.state_dict()[name]) for name, value in saved.state_dict().items())
    assert type(joined[1][0]) is nn.SyncBatchNorm  # the live model keeps its own
    assert plain_norms(saved) is saved


def test_the_penalty_finds_the_layers_that_sync_bn_replaced(tiny_cfg):
    from types import SimpleNamespace

    from models.yolo import DetectionModel
    from prune_tools.sparsity.penalty import PenaltySettings, SparsityPenalty
    from utils.training.optim import ModelEMA

    model = DetectionModel(tiny_cfg)
    average = ModelEMA(model)
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    penalty = SparsityPenalty(PenaltySettings(sr=1.0))
    penalty.on_training_ready(SimpleNamespace(model=model, ema=average, loggers=None))
    norms = penalty.gammas.norms
    assert norms and all(type(norm) is nn.SyncBatchNorm for norm in norms.values())
    assert all(norm is model.get_submodule(name) for name, norm in norms.items())
