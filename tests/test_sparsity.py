"""Sparse training: the penalties against their formulas, the automatic rate, which epoch becomes best.pt, resuming."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import train
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools import train_sparity
from prune_tools.channels.structure import Structure
from prune_tools.planning.costs import CostModel
from prune_tools.planning.goals import Target
from prune_tools.planning.scores import Material, score_channels
from prune_tools.planning.targets import TargetPlanner
from prune_tools.sparsity.gammas import ChannelGammas
from prune_tools.sparsity.options import SparseOptions
from prune_tools.sparsity.penalty import PenaltySettings, SparsityPenalty
from prune_tools.sparsity.rates import Course, decayed
from prune_tools.sparsity.training import make_penalty
from prune_tools.tuning import schedule
from prune_tools.tuning.keep_start import measure_start, start_map50
from prune_tools.tuning.options import with_recipe
from utils.callbacks import Callbacks
from utils.commands.options import AUTO_BATCH, build, parser_for
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER
from utils.storage.files import write_yaml
from utils.training.options import TrainOptions
from utils.training.results import EpochResult
from utils.training_record import TrainingRecord


def stub_state(network: DetectionModel, factor: float = 1.0, **changes) -> SimpleNamespace:
    """Return what the penalty needs of a run: SGD without momentum, ten batches per epoch."""
    optimizer = torch.optim.SGD([parameter for parameter in network.parameters() if parameter.ndim == 1], lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    norms = optimizer.param_groups[0]
    optimizer.param_groups = [{**norms, "params": []}, {**norms, "params": []}, norms]  # biases, weights, norms
    state = {
        "model": network, "ema": SimpleNamespace(ema=network), "optimizer": optimizer, "epochs": 10, "epoch": 0,
        "loader": [None] * 10, "warmup_batches": 1, "plugins": {},
        "hyp": {"momentum": 0.0, "warmup_momentum": 0.0}, "loggers": None, "pending_batches": 1, "grade": 0.0,
        "run": SimpleNamespace(is_main=True, learning_rate_factor=lambda epoch: factor), "skips_step": lambda: False,
    }  # fmt: skip
    return SimpleNamespace(**(state | changes))


def started(penalty: SparsityPenalty, state: SimpleNamespace) -> SparsityPenalty:
    """The penalty at the start of a run with this state."""
    callbacks = Callbacks()
    callbacks.add(penalty)
    callbacks.begin(state)
    callbacks.run("on_train_start")
    return penalty


def result(map50: float) -> EpochResult:
    """The figures of an epoch with this mAP50."""
    return EpochResult(*[0.0] * 13)._replace(map50=map50)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", ["l1", "prox"])
def test_accumulated_batches_count_each(gammas, network, penalty):
    moved = []
    start = [norm.weight.detach().clone() for norm in gammas.norms.values()]
    for steps, pending in ((4, 1), (1, 4)):
        for norm, value in zip(gammas.norms.values(), start, strict=True):
            norm.weight.data = value.clone()
        state = stub_state(network, pending_batches=pending)
        plug_in = started(SparsityPenalty(PenaltySettings(penalty, sr=0.2)), state)
        for _ in range(steps):
            for parameter in network.parameters():
                parameter.grad = torch.zeros_like(parameter)
            plug_in.on_before_optimizer_step(state)
            state.optimizer.step()
            plug_in.optimizer_step(state)
        moved.append(plug_in.gammas.magnitudes())
    before = torch.cat([value.abs() for value in start])
    apart = (moved[0] - moved[1]).abs()[moved[0] > 0.1]  # nearer to zero, the subgradient overshoots
    assert float(apart.max()) < 1e-6
    assert float(before.mean()) - float(moved[0].mean()) > 0.05  # 4 * 0.1 * 0.2 = 0.08 for those that are larger


def test_the_published_rate_decays_to_a_tenth():
    assert decayed(0.02, 0, 20) == 0.02
    assert decayed(0.02, 10, 20) == pytest.approx(0.011)


def test_the_course_knows_what_the_loss_holds_against():
    """Gammas pulled by rate 0.5 and held by known forces: where they end, and which rate reaches zero, are exact."""
    start, force = torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([0.1, 0.4, 0.1, 0.4])
    course = Course(start, start)
    for _ in range(10):
        course.step(0.5, mobility_=0.1, batches=1)
    course.measure(start - (0.5 - force) * 1.0)
    torch.testing.assert_close(course.force, force)
    torch.testing.assert_close(course.final(path=1.0, push=0.5), start - (0.5 - force) * 2)
    # over a path of 2: rate * 2 = what is left + force * 2
    left = start - (0.5 - force)
    assert course.needed(0.5, path=2.0, per_rate=2.0) == pytest.approx(float((left / 2 + force).sort().values[2]))
    assert course.needed(0.0, 3.0, 3.0, origin=start) == pytest.approx(1 / 3 + 0.1)


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_options(tiny_dataset, wide_cfg, tmp_path):
    """Makes the options of a short run from scratch."""

    def make(options_class=SparseOptions, **changes):
        common = {
            "data": str(tiny_dataset), "cfg": str(wide_cfg), "weights": "", "imgsz": 64, "batch_size": 4, "epochs": 3,
            "workers": 0, "device": "cpu", "project": str(tmp_path), "noplots": True, "noautoanchor": True,
        }  # fmt: skip
        return build(options_class, **(common | changes))

    return make


def final_gammas(path, scope="seed") -> ChannelGammas:
    """The channels of a stripped checkpoint."""
    model = load_checkpoint(path)["model"].float().requires_grad_(True)
    return ChannelGammas(model, scope)


def test_polarized_runs_end_at_the_wanted_share_with_exact_zeros(run_options, tmp_path):
    train_sparity.main(run_options(penalty="polarize", target_share=0.3, epochs=6, scope="all"))
    for name in ("last", "best"):  # all later epochs are as sparse, so best.pt must be too
        zero = final_gammas(tmp_path / f"exp/weights/{name}.pt", "all").magnitudes() == 0
        assert float(zero.float().mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    "given, told",
    [
        ({"target_share": 0.3}, {"percent": 0.3}),
        ({"target_share": 0.3, "scope": "all"}, {"percent": 0.3, "scope": "all"}),
        ({"target_params": "0.5", "round_to": 16}, {"target_params": "0.5", "round_to": 16}),
        ({"target_flops": "0.5", "scope": "seed"}, {"target_flops": "0.5", "scope": "seed"}),
        (
            {"target_flops": "0.5", "skip": ["model.1", "model.2*"]},
            {"target_flops": "0.5", "skip": ["model.1", "model.2*"]},
        ),
    ],
)
def test_the_next_command_prunes_what_was_made_sparse(given, told):
    assert build(SparseOptions, penalty="polarize", **given).same_pruning() == told


def test_a_run_for_a_budget_zeroes_just_what_pruning_for_it_removes(run_options, tmp_path):
    options = run_options(penalty="polarize", target_flops="0.6", epochs=6)
    assert (options.scope, options.same_pruning()) == ("all", {"target_flops": "0.6"})
    train_sparity.main(options)
    model = load_checkpoint(tmp_path / "exp/weights/best.pt")["model"].float()
    structure = Structure.of(model).select("all")
    groups = structure.groups
    scores = score_channels("gamma", Material(model), groups)
    plan = TargetPlanner(groups, scores, CostModel(structure)).plan(Target("flops", 0.6, relative=True))
    gone = torch.cat([scores[group.name][plan.removed(group)] for group in groups])
    assert len(gone) > 0
    assert float((gone == 0).float().mean()) > 0.95


def test_prox_runs_make_zeros_and_rate_zero_changes_nothing(run_options, tmp_path):
    train.main(run_options(TrainOptions, name="plain", epochs=2))
    for name, rate in (("off", 0.0), ("on", 300.0)):
        train_sparity.main(run_options(penalty="prox", sr=rate, name=name, epochs=2))
    plain, off, on = (load_checkpoint(tmp_path / f"{name}/weights/last.pt")["model"] for name in ("plain", "off", "on"))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), off.state_dict().values(), strict=True))
    share = [float((ChannelGammas(m.requires_grad_(True)).magnitudes() == 0).float().mean()) for m in (off, on)]
    assert share[0] == 0
    assert share[1] > 0.1


class StopAfterSaving:
    """Raises KeyboardInterrupt when the checkpoint of ``epoch`` has been written."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, _last: object, epoch: int, *_: object) -> None:
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "penalty", [{"penalty": "prox"}, {"penalty": "polarize"}, {"penalty": "polarize", "reversible": True}]
)
def test_resuming_an_automatic_run_is_exact(run_options, tmp_path, penalty, monkeypatch):
    chosen = {"sr": "auto", "epochs": 4, **penalty}
    train_sparity.main(run_options(name="whole", **chosen))
    real = Callbacks.run

    def interrupted(self, hook, *arguments, **keywords):
        real(self, hook, *arguments, **keywords)
        if hook == "on_model_save":
            StopAfterSaving(1)(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Callbacks, "run", interrupted)
        train_sparity.main(run_options(name="broken", **chosen))
    train_sparity.main(build(SparseOptions, resume=str(tmp_path / "broken/weights/last.pt")))
    for name in ("last", "best"):
        whole, resumed = (
            load_checkpoint(tmp_path / f"{run}/weights/{name}.pt")["model"].state_dict() for run in ("whole", "broken")
        )
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_best_is_the_fittest_epoch_of_the_highest_grade(run_options, tmp_path):
    """Epochs of grades 0, 2, 1: the second is best.pt whatever the fitness; without grades fitness decides alone."""
    callbacks, states, grades = Callbacks(), [], [0.0, 2.0, 1.0]
    callbacks.register_action("on_training_ready", callback=states.append)
    callbacks.register_action("on_train_epoch_end", callback=lambda epoch: setattr(states[0], "grade", grades[epoch]))
    train.main(run_options(TrainOptions, save_period=1), callbacks)
    folder = tmp_path / "exp/weights"
    best, second = (load_checkpoint(folder / name) for name in ("best.pt", "epoch1.pt"))
    averaged = second["ema"].half().state_dict()
    assert all(torch.equal(value, averaged[key]) for key, value in best["model"].state_dict().items())


@pytest.mark.parametrize(("rate", "word"), [(1e-4, "too low"), (400.0, "too high")])
def test_a_rate_that_misses_the_share_is_announced(run_options, caplog, monkeypatch, rate, word):
    """So few batches are not enough for any usable rate: more epochs are proposed."""
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.WARNING)
    train_sparity.main(run_options(penalty="prox", sr=rate))
    [warning] = [record.getMessage() for record in caplog.records if word in record.getMessage()]
    assert "train longer" in warning and "would do" not in warning


def test_automatic_rate_reaches_the_share(run_options, tmp_path):
    train_sparity.main(run_options(penalty="prox", sr="auto", target_share=0.5, epochs=12))
    small = final_gammas(tmp_path / "exp/weights/best.pt").magnitudes() < 0.01
    assert float(small.float().mean()) > 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"penalty": "l2"}, "--penalty must be one of"),
        ({"scope": "some"}, "--scope one of"),
        ({"sr": "fast"}, "--sr must lie in \\[0, 1000\\], or be auto"),
        ({"target_share": 1.0}, "--target-share"),
        ({"penalty": "polarize", "target_share": 0.3, "target_flops": "0.5"}, "--target-share and --target-flops"),
        ({"max_map_loss": -0.1, "sr": "auto"}, "--max-map-loss must lie"),
        ({"max_map_loss": 0.1, "st": True}, "add --sr auto"),
        ({"noval": True}, "leave --noval out, or add --st"),
        ({"st": True, "target_flops": "0.5"}, "leave out --st"),
        ({"penalty": "polarize", "sr": 0.1}, "takes no --sr 0.1"),
        ({"penalty": "prox", "reversible": True}, "--reversible is for --penalty polarize"),
        ({"sr": "auto", "noval": True}, "leave --noval out"),
        ({"sr": "auto", "evolve": 2}, "leave --evolve out"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        build(SparseOptions, **changes)


def test_defaults_are_the_published_ones():
    for given in ({"st": True}, {"sr": 0.0005}, {"st": True, "sr": 0.0005}, {"sr_beta": 0.005}):
        options = build(SparseOptions, **given)
        assert (options.penalty, options.st, options.sr, options.scope) == ("l1", True, 0.0005, "seed")
        assert (options.target_share, options.target_flops, options.default_teacher()) == (0.4, "", "")
        assert make_penalty(options).settings.sr_beta == pytest.approx(0.005)
        assert "as published" in options.summary() and "polarize is used" in options.summary()
    assert make_penalty(build(SparseOptions, penalty="prox")).settings.sr_beta == 0
    assert build(SparseOptions, penalty="polarize").sr == "auto"


def test_without_flags_of_l1_polarize_halves_the_operations_with_the_start_as_teacher():
    options = build(SparseOptions, weights="w.pt")
    assert (options.penalty, options.st, options.sr, options.scope) == ("polarize", True, "auto", "all")
    assert (options.target_flops, options.target_share, options.round_to) == ("0.5", None, 8)
    assert options.default_teacher() == "w.pt" and "polarize to --target-flops 0.5" in options.summary()
    assert replace(options, epochs=3) == build(SparseOptions, weights="w.pt", epochs=3)  # what is filled in stays
    share = build(SparseOptions, target_share=0.3)
    assert (share.penalty, share.target_flops, share.scope) == ("polarize", "", "seed")
    parser = parser_for(SparseOptions, "")
    chosen = [SparseOptions(**vars(parser.parse_args(line.split()))) for line in ("", "--st", "--no-st", "--sr 1")]
    assert [(each.penalty, each.st) for each in chosen] == [
        ("polarize", True), ("l1", True), ("l1", False), ("l1", True),
    ]  # fmt: skip
    build(SparseOptions, weights="w.pt", teacher_gain=1.0)
    with pytest.raises(InputError, match="only acts with --teacher"):
        build(SparseOptions, weights="w.pt", teacher_gain=1.0, teacher="none")


@pytest.mark.parametrize(("teacher", "class_count", "expected"), [("", 2, "w.pt"), ("none", 2, ""), ("", 3, "")])
def test_the_start_teaches_if_it_knows_the_classes(teacher, class_count, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "read_record", lambda file: TrainingRecord(file, ("a", "b")))
    data = {"train": ".", "val": ".", "path": str(tmp_path), "names": [str(index) for index in range(class_count)]}
    write_yaml(tmp_path / "d.yaml", data)
    options = build(SparseOptions, weights="w.pt", data=str(tmp_path / "d.yaml"), imgsz=64, teacher=teacher)
    assert schedule.start_or_resume(options)[0].teacher == expected


@pytest.mark.slow
def test_the_start_weights_are_measured(run_options, tmp_path, tiny_dataset, network):
    """Weights of the data set's classes give their mAP50, others none, and the penalty still starts."""
    import val
    from utils.checkpoint import save_checkpoint

    network.names = ["disc", "square"]
    save_checkpoint({"model": network, "epoch": -1, "optimizer": None}, tmp_path / "two.pt")
    options = run_options(weights=str(tmp_path / "two.pt"), penalty="polarize")
    expected = val.run(
        str(tiny_dataset), str(tmp_path / "two.pt"), imgsz=64, batch_size=8, device="cpu", workers=0, plots=False,
        save_dir=tmp_path,
    )[0][2]  # fmt: skip
    assert make_penalty(options).start_map50() == expected
    automatic = replace(options, batch_size=AUTO_BATCH)
    assert make_penalty(automatic).start_map50() == pytest.approx(expected, abs=1e-3)
    three = tmp_path / "three.yaml"
    three.write_text(
        f"path: {tiny_dataset.parent}\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n", encoding="utf-8"
    )
    options = replace(options, data=str(three))
    assert measure_start(options) is None and start_map50(options) == 0
    with pytest.raises(MissingFileError):  # no start to do without, but a mistake
        measure_start(replace(options, weights=str(tmp_path / "absent.pt")))


@pytest.mark.slow
def test_automatic_penalties_give_way_when_the_map_falls(gammas, network):
    """At the highest learning rate twice the loss is allowed, at the lowest just the loss."""
    plug_in = started(
        SparsityPenalty(PenaltySettings("prox", sr="auto", max_map_loss=0.03), lambda: 0.8), stub_state(network)
    )
    start = plug_in.rate
    plug_in.on_fit_epoch_end(result(0.75), 0, 0.0, 0.0)
    assert plug_in.rate >= start
    plug_in.rate = start
    plug_in.on_fit_epoch_end(result(0.73), 0, 0.0, 0.0)
    assert plug_in.rate == pytest.approx(start / 2)
    for factor, precision, held in ((1.0, 0.75, False), (1.0, 0.73, True), (0.0, 0.75, True), (0.0, 0.78, False)):
        settings = PenaltySettings("polarize", sr="auto", max_map_loss=0.03)
        polarized = started(SparsityPenalty(settings, lambda: 0.8), stub_state(network, factor))
        polarized.on_fit_epoch_end(result(precision), 0, 0.0, 0.0)
        assert polarized.polarizer.held is held


@pytest.mark.parametrize("name", ["sparse", "finetune-pruned"])
def test_the_shipped_hyperparameters_differ_in_the_schedule_only(name):
    from utils.storage.files import ROOT
    from utils.training.hyperparameters import read_hyperparameters

    own, scratch = (read_hyperparameters(ROOT / f"data/hyps/hyp.{each}.yaml") for each in (name, "scratch-low"))
    schedule = {"lr0", "lrf", "momentum", "warmup_epochs", "warmup_bias_lr"}
    assert {key for key in scratch if own[key] != scratch[key]} == schedule


def test_the_published_penalties_come_with_the_published_schedule():
    polarize, published = SparseOptions(), SparseOptions(st=True)
    assert [with_recipe(each).recipe for each in (polarize, published)] == ["short", "v6.2"]
    assert with_recipe(replace(published, optimizer="Adam")).optimizer == "Adam"  # as train.py takes it
