"""Each option of train.py has an effect: one test for each, named after it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from models.loading import load_checkpoint
from tests.training_runs import prepared_trainer
from utils.callbacks import Callbacks
from utils.commands.options import build, parse
from utils.errors import InputError
from utils.storage.files import ROOT, read_yaml, write_yaml
from utils.training import compilation
from utils.training.batch_step import BatchStep, RecordedStep, batch_step
from utils.training.engine import train_one_epoch
from utils.training.hyperparameters import read_hyperparameters
from utils.training.options import TrainOptions
from utils.training.state import autocast_dtype
from utils.training.trainer import Trainer

LOW = ROOT / "data/hyps/hyp.scratch-low.yaml"


class Bench:
    """Makes runs of a tiny detector on the tiny data set, in a folder of their own."""

    def __init__(self, data: Path, cfg: Path, folder: Path) -> None:
        self.folder = folder
        self.common = {
            "data": str(data), "cfg": str(cfg), "weights": "", "imgsz": 64, "batch_size": 4, "epochs": 1, "workers": 0,
            "device": "cpu", "project": str(folder), "noplots": True, "exist_ok": True,
        }  # fmt: skip

    def options(self, **changes: Any) -> TrainOptions:
        return build(TrainOptions, **(self.common | changes))

    def prepared(self, **changes: Any) -> Trainer:
        """A trainer before its first epoch."""
        return prepared_trainer(self.options(**changes), self.folder / "prepared")

    def run(self, callbacks: Callbacks | None = None, **changes: Any) -> Path:
        """The folder of a finished run."""
        train.main(self.options(**changes), callbacks)
        return self.folder / changes.get("name", "exp")

    def counted(self, *hooks: str, **changes: Any) -> Counter:
        """Return how often each hook fired in a run."""
        callbacks, counts = Callbacks(), Counter()
        for hook in hooks:
            callbacks.register_action(hook, callback=lambda *_, hook=hook, **__: counts.update([hook]))
        self.run(callbacks, **changes)
        return counts


@pytest.fixture
def bench(tiny_dataset: Path, tiny_cfg: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_dataset, tiny_cfg, tmp_path)


@pytest.fixture(scope="module")
def start(tiny_dataset: Path, tiny_cfg: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a finished run of one epoch."""
    return Bench(tiny_dataset, tiny_cfg, tmp_path_factory.mktemp("start")).run() / "weights/last.pt"


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["model"].float().state_dict()


def first_batch(trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor]:
    return next(iter(trainer.state.loader))[:2]


# -- the list ------------------------------------------------------------------------------------------------------


def test_every_option_has_a_test():
    names = {field.name for field in dataclasses.fields(TrainOptions)} - {"allow_download_scripts"}  # with downloads
    assert {name for name in names if not isinstance(globals().get(f"test_{name}"), Callable)} == set()


def test_help_lists_the_published_options_and_no_others():
    help_text = subprocess.run(
        [sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    flags = {word.strip(",[]") for word in help_text.split() if word.strip("[").startswith("--")}
    published = {
        "--weights", "--cfg", "--data", "--hyp", "--epochs", "--batch-size", "--imgsz", "--img", "--img-size", "--rect",
        "--resume", "--nosave", "--noval", "--noautoanchor", "--noplots", "--evolve", "--cache", "--image-weights",
        "--device", "--multi-scale", "--single-cls", "--optimizer", "--sync-bn", "--workers", "--project", "--name",
        "--exist-ok", "--quad", "--cos-lr", "--label-smoothing", "--patience", "--freeze", "--save-period", "--seed",
        "--local_rank",
    }  # fmt: skip
    added = {
        "--help",
        "--version",
        "--amp",
        "--augment",
        "--compile",
        "--logger",
        "--no-cuda-graph",
        "--local-rank",
        "--allow-download-scripts",
    }
    assert flags == published | added


# -- where a run starts --------------------------------------------------------------------------------------------


def test_weights(bench, start):
    model = bench.prepared(weights=str(start), cfg="").state.model
    saved = weights_of(start)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_cfg(bench, tmp_path):
    cfg = read_yaml(bench.common["cfg"])
    cfg["backbone"][0][3][0] = 32  # channels of the first convolution
    write_yaml(tmp_path / "wider.yaml", cfg)
    channels = [
        bench.prepared(cfg=str(file)).state.model.model[0].conv.out_channels
        for file in (bench.common["cfg"], tmp_path / "wider.yaml")
    ]
    assert channels == [8, 16]


def test_data(bench, tmp_path):
    data = read_yaml(bench.common["data"])
    write_yaml(tmp_path / "swapped.yaml", data | {"train": data["val"], "val": data["train"]})
    assert bench.prepared(data=str(tmp_path / "swapped.yaml")).state.loader.dataset.n == 4
    assert bench.prepared().state.loader.dataset.n == 12


def test_hyp(bench, tmp_path):
    write_yaml(tmp_path / "hyp.yaml", read_hyperparameters(LOW) | {"lr0": 0.123})
    trainer = bench.prepared(hyp=str(tmp_path / "hyp.yaml"))
    assert trainer.state.optimizer.param_groups[0]["lr"] == 0.123
    assert read_yaml(trainer.folder.path / "hyp.yaml")["lr0"] == 0.123


def test_epochs(bench):
    assert len((bench.run(epochs=3, noval=True) / "results.csv").read_text().splitlines()) == 4


def test_batch_size(bench):
    trainer = bench.prepared(batch_size=6)
    assert len(trainer.state.loader) == 2 and first_batch(trainer)[0].shape[0] == 6
    assert trainer.state.accumulate == 11  # round(64 / 6)
    found = bench.prepared(batch_size=-1)  # there is no GPU whose memory could be measured
    assert found.state.batch_size == 16
    assert read_yaml(found.folder.path / "opt.yaml")["batch_size"] == 16  # for --resume


def test_imgsz(bench):
    trainer = bench.prepared(imgsz=90)
    assert trainer.run.image_size == 96 and first_batch(trainer)[0].shape[2:] == (96, 96)


def test_augment(bench, tmp_path):
    (tmp_path / "own.py").write_text("def same(image, labels):\n    return image, labels\n")
    trainer = bench.prepared(augment=f"{tmp_path / 'own.py'}:same")
    own = trainer.state.loader.dataset.own_augmentation
    assert own is not None and own.class_count == 2
    assert trainer.val_loader.dataset.own_augmentation is None
    assert bench.prepared().state.loader.dataset.own_augmentation is None


def test_rect(bench):
    trainer = bench.prepared(rect=True, batch_size=4, imgsz=128)
    shapes = {tuple(batch[0].shape[2:]) for batch in trainer.state.loader}
    assert len(shapes) > 1  # rectangles of several shapes
    with pytest.raises(InputError, match="--image-weights draws images at random"):
        bench.options(rect=True, image_weights=True)


def test_multi_scale(bench):
    widths = set()
    callbacks = Callbacks()
    callbacks.register_action("on_train_batch_end", callback=lambda _, __, images, *___: widths.add(images.shape[-1]))
    bench.run(callbacks, multi_scale=True, batch_size=2, noval=True)
    assert widths == {64, 96}  # one cell, at 32, would leave batch norm a single value of a single image


def test_single_cls(bench):
    trainer = bench.prepared(single_cls=True)
    assert trainer.run.names == ["item"] and trainer.state.model.model[-1].nc == 1
    assert all((rows[:, 0] == 0).all() for rows in trainer.state.loader.dataset.labels)


def test_freeze(bench):
    state = bench.prepared(freeze=[0, 3]).state
    before = {name: value.clone() for name, value in state.model.named_parameters()}
    train_one_epoch(state)
    same = {name for name, value in state.model.named_parameters() if torch.equal(value, before[name])}
    gammas = {name for name in before if name.endswith("bn.weight")}  # of 1, from which warm-up takes next to nothing
    assert same - gammas == {name for name in before if name.startswith(("model.0.", "model.3."))} - gammas
    frozen = bench.prepared(freeze=[2]).state.model.named_parameters()  # one number: so many from the start
    assert {name.split(".")[1] for name, value in frozen if not value.requires_grad} == {"0", "1"}


def test_noautoanchor(bench, tmp_path):
    cfg = read_yaml(bench.common["cfg"])
    cfg["anchors"] = [[400, 400, 410, 410], [420, 420, 430, 430], [440, 440, 450, 450]]  # fit nothing
    write_yaml(tmp_path / "huge.yaml", cfg)
    anchors = [
        float((head.anchors * head.stride.view(-1, 1, 1)).max())
        for keep in (True, False)
        for head in [bench.prepared(cfg=str(tmp_path / "huge.yaml"), noautoanchor=keep).state.model.model[-1]]
    ]
    assert anchors[0] == 450 and anchors[1] < 100


# -- how it learns -------------------------------------------------------------------------------------------------


def test_optimizer(bench):
    kinds = [type(bench.prepared(optimizer=name).state.optimizer).__name__ for name in ("SGD", "Adam", "AdamW")]
    assert kinds == ["SGD", "Adam", "AdamW"]


def test_cos_lr(bench):
    straight, wave = (bench.prepared(cos_lr=cosine, epochs=10).run.learning_rate_factor(2) for cosine in (False, True))
    assert straight == pytest.approx(0.802) and wave == pytest.approx(0.9054634)


def test_label_smoothing(bench):
    assert bench.prepared(label_smoothing=0.1).state.compute_loss.cp == pytest.approx(0.95)


def test_amp(bench):
    kinds: dict[str, torch.dtype] = {}
    for amp in ("auto", "on"):
        state = bench.prepared(amp=amp).state
        convolution = state.model.model[0].conv
        convolution.register_forward_hook(lambda _, __, output, amp=amp: kinds.update({amp: output.dtype}))
        assert all(loss > 0 for loss in train_one_epoch(state))
    assert kinds == {"auto": torch.float32, "on": torch.bfloat16}
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert autocast_dtype("auto", gpu) == autocast_dtype("on", gpu) == torch.float16
    assert autocast_dtype("bfloat16", gpu) == torch.bfloat16 and autocast_dtype("off", gpu) is None
    with pytest.raises(InputError, match="bfloat16"):
        autocast_dtype("float16", cpu)


def test_compile(bench, monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")  # traces and cuts graphs, but needs no C++ compiler
    losses, told = {}, []
    monkeypatch.setattr(compilation.LOGGER, "info", lambda text, *_: told.append(text))
    for chosen in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        trainer = bench.prepared(compile=chosen)
        losses[chosen] = train_one_epoch(trainer.state)
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1) == chosen  # one is that of the check
        trainer.folder.save(trainer.state, improved=True)
        trainer.folder.writer.finish()
        assert load_checkpoint(trainer.folder.last)["model"](torch.zeros(1, 3, 64, 64))
        assert any("first batches take minutes" in line for line in told) == chosen
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)

    def broken(graph, inputs):
        raise RuntimeError("no compiler found\nand more")

    monkeypatch.setattr(compilation, "BACKEND", broken)
    with pytest.raises(InputError, match=r"--compile: torch cannot compile for cpu here \(.*no compiler found.*\)"):
        bench.prepared(compile=True)
    with pytest.raises(InputError, match="--compile makes kernels for one image size"):
        bench.options(compile=True, rect=True)


def test_no_cuda_graph(bench, monkeypatch):
    """The choice alone: results are compared in tests/test_batch_step.py, and on a GPU in tests/gpu."""
    monkeypatch.setattr("utils.training.batch_step.CudaRecorder", lambda: None)
    kinds = []
    for chosen in (False, True):
        state = bench.prepared(no_cuda_graph=chosen).state
        state.run = replace(state.run, device=torch.device("cuda"))
        kinds.append(type(batch_step(state)))
    assert kinds == [RecordedStep, BatchStep]


def test_sync_bn(bench):
    """In one process it changes nothing."""
    plain, joined = (bench.prepared(sync_bn=chosen).state.forward for chosen in (False, True))
    assert [type(module) for module in joined.modules()] == [type(module) for module in plain.modules()]


def test_image_weights(bench):
    trainer = bench.prepared(image_weights=True)
    dataset = trainer.state.loader.dataset
    trainer.state.maps = [1.0, 0.0]  # class 0 is found, class 1 is not
    dataset.draw_by_weight(trainer._class_weights(), trainer.run.random_of_batch(0))
    drawn = list(dataset.indices)
    assert len(drawn) == 12 and len(set(drawn)) < 12
    assert all((dataset.labels[index][:, 0] == 1).any() for index in drawn)
    seen: list[str] = []
    callbacks = Callbacks()
    callbacks.register_action("on_train_batch_end", callback=lambda *values: seen.extend(values[4]))
    bench.run(callbacks, image_weights=True, noval=True)
    assert len(set(seen)) < 12  # some were drawn several times


def test_quad(bench):
    plain, quad = (first_batch(bench.prepared(quad=quad, batch_size=8)) for quad in (False, True))
    assert plain[0].shape == (8, 3, 64, 64) and quad[0].shape == (2, 3, 128, 128)
    assert bench.prepared(quad=True).run.loss_factor == 4
    bench.run(quad=True, noval=True)
    with pytest.raises(InputError, match="--batch-size must be at least 4"):
        bench.options(quad=True, batch_size=3)


def test_seed(bench):
    images = [first_batch(bench.prepared(seed=seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


def test_patience(bench, monkeypatch):
    merits = iter([0.0, 0.0, 0.2, 0.2, 0.1, 0.1])
    monkeypatch.setattr("utils.training.trainer.fitness", lambda _: [next(merits)])
    folder = bench.run(epochs=9, patience=2, nosave=True)
    rows = (folder / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 5  # two epochs after the first of the best, however long none was found at all


# -- what it validates, keeps and shows ----------------------------------------------------------------------------


def test_noval(bench):
    assert bench.counted("on_val_start", epochs=3, noval=True)["on_val_start"] == 2  # the last epoch, and best.pt
    assert bench.counted("on_val_start", epochs=3)["on_val_start"] == 4


def test_nosave(bench):
    assert bench.counted("on_model_save", epochs=3, nosave=True) == {"on_model_save": 1}
    assert bench.counted("on_model_save", epochs=3) == {"on_model_save": 3}


def test_save_period(bench):
    folder = bench.run(epochs=3, save_period=2, noval=True)
    assert {file.name for file in (folder / "weights").iterdir()} == {"last.pt", "best.pt", "epoch0.pt", "epoch2.pt"}
    assert load_checkpoint(folder / "weights/epoch2.pt")["epoch"] == 2


def test_noplots(bench, asked_pictures):
    """The pictures themselves: tests/test_training.py."""
    files = {file.suffix for file in bench.run(name="silent").iterdir()}
    assert not asked_pictures and not files & {".jpg", ".png"}
    bench.run(name="drawn", noplots=False)
    assert len(asked_pictures) > 3


def test_cache(bench, tmp_path, monkeypatch):
    from tests.conftest import draw_tiny_dataset

    data = str(draw_tiny_dataset(tmp_path / "own"))

    def kept(**options) -> tuple[bool, bool]:
        trainer = bench.prepared(data=data, **options)
        return trainer.state.loader.dataset.images is not None, trainer.val_loader.dataset.images is not None

    choices = ("ram", "val", "none", "auto", None)
    assert [kept(cache=cache) for cache in choices] == [
        (True, True), (False, True), (False, False), (True, True), (False, False)
    ]  # fmt: skip
    assert kept() == (True, True)  # not asked for
    assert not list((tmp_path / "own").rglob("*.images"))
    assert kept(cache="disk") == (True, True)
    assert len(list((tmp_path / "own").rglob("*.images"))) == 2
    monkeypatch.setattr("utils.dataset.image_cache.available_memory", lambda: 100)
    assert kept() == (False, False)
    with pytest.raises(InputError, match="do not fit in memory"):
        kept(cache="ram")


def test_workers(bench, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert [bench.prepared(workers=count).state.loader.num_workers for count in (0, 1, 9)] == [0, 1, 2]


def test_project(bench, tmp_path):
    bench.run(project=str(tmp_path / "elsewhere"), noval=True)
    assert (tmp_path / "elsewhere/exp/weights/last.pt").is_file()


def test_name(bench):
    assert (bench.run(name="mine", noval=True) / "weights/last.pt").is_file()
    bench.run(name="cfg", noval=True)
    assert (bench.folder / "tiny_model/weights/last.pt").is_file()  # the configuration's name


def test_exist_ok(bench):
    for _ in range(2):
        bench.run(exist_ok=False, noval=True)
    bench.run(noval=True)
    assert sorted(path.name for path in bench.folder.iterdir()) == ["exp", "exp2"]


def test_resume(bench, heard):
    callbacks = Callbacks()

    def stop(*_: object) -> None:
        callbacks.stop_training = True

    callbacks.register_action("on_model_save", callback=stop)
    folder = bench.run(callbacks, epochs=2, noval=True)
    assert load_checkpoint(folder / "weights/last.pt")["epoch"] == 0
    assert f"A callback stopped the run; continue with --resume {folder / 'weights/last.pt'}" in heard.text
    assert "Next: " not in heard.text
    train.main(build(TrainOptions, resume=str(folder / "weights/last.pt")))
    assert load_checkpoint(folder / "weights/last.pt")["epoch"] == -1
    assert len((folder / "results.csv").read_text().splitlines()) == 3


def test_device(bench):
    assert next(bench.prepared(device="cpu").state.model.parameters()).device.type == "cpu"
    for device, message in (("0,1", "torchrun"), ("nothing", "unknown --device")):
        with pytest.raises(InputError, match=message):
            bench.run(device=device)


def test_local_rank(bench):
    assert parse(TrainOptions, "", ["--local_rank", "0"]).local_rank == 0
    with pytest.raises(InputError, match="start with torchrun"):
        bench.run(local_rank=0)


def test_evolve(bench):
    folder = bench.run(evolve=2, name="evolved")
    assert {path.name for path in folder.iterdir()} == {"evolve.csv", "evolve.png", "hyp_evolve.yaml", "results.csv"}
    assert len((folder / "evolve.csv").read_text().splitlines()) == 3
    assert len((folder / "results.csv").read_text().splitlines()) == 3
    assert parse(TrainOptions, "", ["--evolve"]).evolve == 300


def test_logger(monkeypatch):
    monkeypatch.setattr("utils.tracking.services.is_installed", lambda module: module == "wandb")
    assert parse(TrainOptions, "", ["--logger", "wandb", "--epochs", "3"]).logger == ["wandb"]
    with pytest.raises(InputError, match="pip install comet_ml"):
        parse(TrainOptions, "", ["--logger", "wandb", "comet"])
