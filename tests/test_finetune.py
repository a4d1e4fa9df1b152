"""Fine-tuning: what a recipe decides, what the user's flags keep, and what a teacher teaches."""

from __future__ import annotations

import copy
import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools import finetune
from prune_tools.tuning.distillation import Distillation, output_distance, soft_cross_entropy
from prune_tools.tuning.options import FinetuneOptions, with_recipe
from prune_tools.tuning.recipes import DEFAULT, RECIPES, Recipe
from tests.conftest import TINY_MODEL
from utils.callbacks import Callbacks
from utils.checkpoint import de_parallel, save_checkpoint
from utils.commands.options import build
from utils.dataloaders import create_dataloader
from utils.errors import InputError
from utils.loss import ComputeLoss
from utils.storage.files import ROOT
from utils.training.hyperparameters import read_hyperparameters
from utils.training.options import TrainOptions

SCRATCH = str(ROOT / "data/hyps/hyp.scratch-low.yaml")


def network(names: tuple[str, ...] = ("disc", "square"), seed: int = 0) -> DetectionModel:
    """A tiny detector with random weights."""
    torch.manual_seed(seed)
    model = DetectionModel(copy.deepcopy(TINY_MODEL), nc=len(names))
    model.names, model.hyp = list(names), read_hyperparameters(SCRATCH)
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of a student, of a teacher, and of one that knows other classes."""
    folder = tmp_path_factory.mktemp("weights")
    models = {"student": network(), "teacher": network(seed=1), "other": network(("square", "disc"), seed=1)}
    for name, model in models.items():
        save_checkpoint({"model": model, "ema": None, "optimizer": None, "epoch": -1}, folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in models}


def options(files: dict[str, Path], tiny_dataset: Path, folder: Path, **changes) -> FinetuneOptions:
    """A short run on the CPU without loader processes."""
    common = {
        "data": str(tiny_dataset), "weights": str(files["student"]), "imgsz": 64, "batch_size": 4, "epochs": 2,
        "workers": 0, "device": "cpu", "project": str(folder), "noplots": True,
    }  # fmt: skip
    return build(FinetuneOptions, **(common | changes))


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["model"].float().state_dict()


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# -- recipes ---------------------------------------------------------------------------------------------------------


def test_a_recipe_fills_in_only_what_the_user_left_open(caplog):
    plain = with_recipe(FinetuneOptions())
    assert (plain.recipe, plain.optimizer) == (DEFAULT, RECIPES[DEFAULT].optimizer)
    assert plain.hyp == str(RECIPES[DEFAULT].hyp_file)

    with caplog.at_level(logging.INFO, "yolov5"):
        own = with_recipe(FinetuneOptions(hyp="mine.yaml"))
    assert (own.recipe, own.optimizer, own.hyp) == ("v6.2", "SGD", "mine.yaml")
    assert "v6.2: SGD with mine.yaml" in caplog.text

    both = with_recipe(FinetuneOptions(hyp="mine.yaml", recipe="short", optimizer="Adam"))
    assert (both.recipe, both.optimizer, both.hyp) == ("short", "Adam", "mine.yaml")


def test_a_rate_for_another_optimizer_is_refused():
    with pytest.raises(InputError, match="give --hyp"):
        with_recipe(FinetuneOptions(optimizer="SGD"))
    with pytest.raises(InputError, match=r"unknown recipe 'fast'.*v6\.2"):
        with_recipe(FinetuneOptions(recipe="fast"))


@pytest.mark.parametrize("name", RECIPES)
def test_the_files_of_recipes_are_whole(name):
    assert read_hyperparameters(RECIPES[name].hyp_file)["warmup_epochs"] >= 0


def test_recipe_v62_is_train_py(files, tiny_dataset, tmp_path):
    finetune.main(options(files, tiny_dataset, tmp_path / "recipe", recipe="v6.2", epochs=1))
    common = vars(options(files, tiny_dataset, tmp_path / "plain", epochs=1))
    known = vars(TrainOptions())
    plain = {name: value for name, value in common.items() if name in known and name not in ("hyp", "optimizer")}
    train.main(build(TrainOptions, **plain))
    assert same(*(weights_of(tmp_path / kind / "exp/weights/last.pt") for kind in ("recipe", "plain")))


def test_the_schedule_of_a_recipe(files, tiny_dataset, tmp_path, monkeypatch):
    recipe = Recipe(
        "hyp.finetune-pruned.yaml", "AdamW", every_batch=True, average_epochs=2, longest_warmup=0.5, without_mosaic=0.5
    )
    monkeypatch.setitem(RECIPES, DEFAULT, recipe)
    states, mosaics = [], []
    callbacks = Callbacks()
    chosen = options(files, tiny_dataset, tmp_path, epochs=4)
    callbacks.register_action("on_training_ready", callback=states.append)
    callbacks.register_action(
        "on_train_batch_end", callback=lambda *_: mosaics.append(bool(states[0].loader.dataset._mosaic_closed))
    )
    finetune.main(chosen, callbacks)
    state = states[0]
    assert (state.accumulate, state.warmup_batches, state.ema.updates) == (1, 6, 12)  # 3 batches in each of 4 epochs
    assert state.ema.decay(10**6) == pytest.approx(1 - 1 / 6)
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0, 0.0005 * 4 / 64, 0]
    assert mosaics == [False] * 6 + [True] * 6


def test_a_gain_without_a_teacher_is_refused():
    with pytest.raises(InputError, match="only acts with --teacher"):
        FinetuneOptions(teacher_gain=3.0)


def test_a_run_never_ends_below_its_start(files, tiny_dataset, tmp_path, caplog, monkeypatch):
    from prune_tools.tuning import keep_start as start

    for name, before in (("worse", 0.0), ("better", 1.0)):
        monkeypatch.setattr(start, "measure_start", lambda _, before=before: (before,) * 4)  # P, R, mAP50, mAP50-95
        finetune.main(options(files, tiny_dataset, tmp_path / name, epochs=1))
    assert caplog.text.count("no epoch reached the accuracy of the start weights") == 1
    kept = [same(weights_of(tmp_path / name / "exp/weights/best.pt"), weights_of(files["student"]))
            for name in ("worse", "better")]  # fmt: skip
    assert kept == [False, True]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_closed_mosaic_stays_closed_in_loader_processes(tiny_dataset, workers):
    folder = tiny_dataset.parent / "images/train"
    loader, dataset = create_dataloader(str(folder), 64, 4, 32, hyp={"mosaic": 1.0}, augment=True, workers=workers)
    assert all(shape is None for *_, shapes in loader for shape in shapes)
    assert dataset.close_mosaic()
    assert not dataset.close_mosaic()  # it has been closed
    assert all(shape is not None for *_, shapes in loader for shape in shapes)


def test_resume_with_recipe_and_teacher_is_exact(files, tiny_dataset, tmp_path, caplog):
    class Stop(Exception):
        pass

    def stop(_: Path, epoch: int, *__: object) -> None:
        if epoch == 0:
            raise Stop

    with caplog.at_level(logging.INFO, "yolov5"):
        finetune.main(options(files, tiny_dataset, tmp_path / "whole", teacher=str(files["teacher"])))
    assert caplog.text.count("Distance to the teacher") == 2  # epochs
    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=stop)
    with pytest.raises(Stop):
        finetune.main(options(files, tiny_dataset, tmp_path / "broken", teacher=str(files["teacher"])), callbacks)
    last = tmp_path / "broken/exp/weights/last.pt"
    with pytest.raises(InputError, match=r"finetune\.py --resume"):
        train.main(TrainOptions(resume=str(last)))
    finetune.main(FinetuneOptions(resume=str(last)))
    assert same(weights_of(last), weights_of(tmp_path / "whole/exp/weights/last.pt"))


# -- the teacher -----------------------------------------------------------------------------------------------------


def outputs(model: DetectionModel, images: torch.Tensor) -> list[torch.Tensor]:
    """Raw logits of the head, with batch-norm statistics as they are."""
    model.eval().model[-1].train()
    return model(images)


def test_the_distance_to_oneself_is_zero_and_has_no_slope():
    model = network()
    raw = outputs(model, torch.rand(2, 3, 64, 64))
    leaves = [level.detach().requires_grad_() for level in raw]
    leaves[0].data[..., 4] = 2.0  # cells that count
    terms = output_distance(leaves, [leaf.detach().clone() for leaf in leaves], ComputeLoss(model))
    assert torch.stack(terms).abs().max() < 1e-5
    torch.stack(terms).sum().backward()
    assert max(leaf.grad.abs().max() for leaf in leaves if leaf.grad is not None) < 1e-5


@pytest.mark.parametrize("masked", [False, True])
def test_boxes_and_classes_count_where_the_teacher_sees_objects(masked):
    model = network()
    teacher = [torch.zeros_like(level) for level in outputs(model, torch.rand(1, 3, 64, 64))]
    for level in teacher:
        level[..., 4] = -20.0
    teacher[0][0, 1, 2, 3, 4] = 20.0  # the one object
    loss = ComputeLoss(model)
    loss.masked = masked

    def terms(level: int, place: tuple[int, ...], channel: int) -> list[float]:
        changed = [values.clone() for values in teacher]
        changed[level][place][channel] = 3.0
        return [float(term) for term in output_distance(changed, teacher, loss)]

    elsewhere = terms(0, (0, 0, 0, 0), 2)
    assert max(elsewhere) < 1e-6
    box, objectness, classes = terms(0, (0, 1, 2, 3), 2)
    assert box > 0.1
    assert max(objectness, classes) < 1e-6
    box, objectness, classes = terms(0, (0, 1, 2, 3), 6)
    assert classes == pytest.approx(float(soft_cross_entropy(torch.tensor(3.0), torch.tensor(0.0))) / 2)
    assert max(box, objectness) < 1e-6
    cells = teacher[2][..., 4].numel()  # objectness counts in empty cells, too
    expected = float(soft_cross_entropy(torch.tensor(3.0), torch.tensor(-20.0))) / cells * loss.balance[2]
    assert terms(2, (0, 0, 0, 0), 4)[1] == pytest.approx(expected, rel=1e-4)


def test_the_divergence_of_two_logits():
    p, q = torch.tensor(0.25), torch.tensor(0.5)
    expected = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    assert float(soft_cross_entropy(p.logit(), q.logit())) == pytest.approx(float(expected), rel=1e-5)


def ready(files: dict[str, Path], model: torch.nn.Module, gain: float = 1.0) -> Distillation:
    """A distillation in the middle of an epoch."""
    student = de_parallel(model)
    state = SimpleNamespace(
        model=model, compute_loss=ComputeLoss(student), device=torch.device("cpu"), hyp=student.hyp, loggers=None,
        uncopyable=threading.Lock(),
    )  # fmt: skip
    distillation = Distillation(files["teacher"], gain)
    distillation.state = state
    distillation.on_training_ready(state)
    assert state.compute_loss is distillation
    distillation.on_train_epoch_start()
    return distillation


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [False, True])
def test_a_training_batch_is_compared_and_validation_is_not(files, parallel):
    student = network()
    model = torch.nn.DataParallel(student) if parallel else student
    distillation = ready(files, model, gain=2.0)
    loss = distillation.label_loss
    images, targets = torch.rand(2, 3, 64, 64), torch.tensor([[0, 1, 0.5, 0.5, 0.3, 0.3]])
    raw = model.train()(images)
    total, items = distillation(raw, targets, images)
    plain, plain_items = loss(raw, targets)
    wanted = outputs(load_checkpoint(files["teacher"])["model"].float(), images)
    box, objectness, classes = output_distance(raw, wanted, loss)
    hyp = student.hyp
    expected = plain + 2 * 2 * (box * hyp["box"] + objectness * hyp["obj"] + classes * hyp["cls"])  # gain, batch size
    assert total.item() == pytest.approx(expected.item(), rel=1e-3)  # the teacher is fused
    assert total > plain
    assert torch.equal(items, plain_items)
    total.backward()
    assert all(parameter.grad is None for parameter in distillation.teacher.parameters())
    distillation.on_train_epoch_end(0)
    assert torch.equal(distillation(raw, targets)[0], plain)


@pytest.mark.slow
def test_a_student_comes_closer_to_its_teacher(files):
    student = network()
    distillation = ready(files, student, gain=100.0)
    images, no_targets = torch.rand(2, 3, 64, 64), torch.zeros(0, 6)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    distances = []
    for _ in range(8):
        raw = student.train()(images)
        distance = (distillation(raw, no_targets, images)[0] - distillation.label_loss(raw, no_targets)[0]).sum()
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        distances.append(float(distance.detach()))
    assert distances[-1] < 0.7 * distances[0]


def test_a_teacher_that_cannot_teach_is_refused(files, tiny_dataset, tmp_path):
    with pytest.raises(InputError, match="classes"):
        finetune.main(options(files, tiny_dataset, tmp_path, teacher=str(files["other"])))
    with pytest.raises(InputError, match=r"nowhere\.pt"):
        finetune.main(options(files, tiny_dataset, tmp_path / "none", teacher="nowhere.pt"))
    assert not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="--teacher-gain"):
        FinetuneOptions(teacher_gain=0.0)
    moved = network(seed=1)
    moved.model[-1].anchors *= 1.5
    save_checkpoint({"model": moved, "ema": None, "optimizer": None, "epoch": -1}, tmp_path / "moved.pt")
    with pytest.raises(InputError, match="anchors"):
        finetune.main(options(files, tiny_dataset, tmp_path, teacher=str(tmp_path / "moved.pt")))
