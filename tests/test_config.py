"""Options: one definition for the command line and for keywords; hyperparameter files are checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from detect import DetectOptions
from export import ExportOptions
from prune_tools.finetune import FinetuneOptions
from prune_tools.options import PruneOptions
from prune_tools.pipeline_options import PipelineOptions
from prune_tools.survey.options import SensitivityOptions, SweepOptions
from prune_tools.train_sparity import SparseOptions
from utils.commands.options import build, identity_of, option, parse, parser_for
from utils.device import select_device
from utils.errors import InputError, without_middle
from utils.storage.files import ROOT, read_yaml, write_yaml
from utils.training.hyperparameters import read_hyperparameters, scaled_hyperparameters
from utils.training.options import TrainOptions
from val import ValOptions

LOW = ROOT / "data/hyps/hyp.scratch-low.yaml"


@dataclass
class Sample:
    """One option of each kind."""

    size: int = option(3, "a number", "--sz")
    rate: float = option(0.5, "a rate")
    fast: bool = option(False, "a switch")
    careful: bool = option(True, "a switch that is on")
    names: list[str] = option(["a"], "several", nargs="+")


def test_command_line_and_keywords_agree():
    argv = ["--sz", "7", "--rate", "0.25", "--fast", "--no-careful", "--names", "x", "y"]
    assert parse(Sample, "", argv) == build(Sample, size=7, rate=0.25, fast=True, careful=False, names=["x", "y"])


def test_list_defaults_are_not_shared():
    build(Sample).names.append("b")
    assert build(Sample).names == ["a"]


def test_published_spellings_and_abbreviations():
    options = parse(TrainOptions, "", ["--img", "320", "--batch", "64", "--cos", "--resume"])
    assert (options.imgsz, options.batch_size, options.cos_lr, options.resume) == (320, 64, True, True)


def test_help_shows_true_defaults(capsys):
    for options_class in (TrainOptions, ValOptions, DetectOptions):
        with pytest.raises(SystemExit):
            parse(options_class, "Some command.", ["--help"])
        told = " ".join(capsys.readouterr().out.split())
        assert "(default: None)" not in told
        assert "(default: )" not in told
        assert "(default: 640)" in told or "that of the training of --weights, else 640" in told
    defaults = build(ValOptions), build(ValOptions, task="speed")
    text = parser_for(ValOptions, "").format_help()
    for name in ("conf_thres", "iou_thres"):
        usual, fast = (getattr(chosen, name) for chosen in defaults)
        assert f"(default: {usual}; with --task speed {fast})" in " ".join(text.split())


def test_unknown_keyword_names_the_close_one():
    with pytest.raises(InputError, match="did you mean 'batch_size'"):
        build(TrainOptions, batchsize=4)


OPTIONS = (
    TrainOptions, ValOptions, DetectOptions, ExportOptions, SparseOptions, FinetuneOptions, PruneOptions, SweepOptions,
    SensitivityOptions, PipelineOptions,
)  # fmt: skip


def numbers_of(options_class) -> list[dataclasses.Field]:
    """The options that are numbers or lists of numbers, by what argparse makes of them."""
    actions = {action.dest: action for action in parser_for(options_class, "")._actions}
    return [
        field for field in dataclasses.fields(options_class)
        if (kind := actions[field.name].type) in (int, float) or getattr(kind, "__name__", "") == "rate"
    ]  # fmt: skip


@pytest.mark.parametrize("options_class", OPTIONS)
def test_every_number_has_a_range_and_is_kept_to_it(options_class):
    fields = numbers_of(options_class)
    assert len(fields) > 5
    for field in fields:
        limits = field.metadata["range"]
        least, most = limits.least, limits.most
        assert least is not None, field.name
        many = field.metadata["arguments"].get("nargs") == "+"
        for wrong in (
            least - 1 - 10 * (least == -1),
            most + 1,
            10**400,
            float("nan"),
            float("inf"),
            "many",
            True,
            [[1]],
            *([least] if limits.open_below else []),
            *([most] if limits.open_above else []),
        ):
            if wrong in field.metadata["also"]:
                continue
            with pytest.raises(InputError, match=f"--{field.name.replace('_', '-')} must (be|lie)") as caught:
                build(options_class, **{field.name: [wrong] if many else wrong})
            assert len(str(caught.value)) < 250


@dataclass(frozen=True)
class WithOneMore(SweepOptions):
    """A sweep with an option that nobody has thought of."""

    strength: float = option(1.0, "a new option", at_least=0, at_most=9)


def test_a_new_option_makes_another_survey_unless_it_says_otherwise():
    assert identity_of(build(WithOneMore, strength=2.0)) == identity_of(build(SweepOptions)) | {"strength": 2.0}
    left_out = {field.name for field in dataclasses.fields(SweepOptions)} - set(identity_of(build(SweepOptions)))
    assert left_out == {
        "cfg", "project", "name", "exist_ok", "workers", "dnn", "images", "ratios", "largest", "tolerance",
    }  # fmt: skip


def test_a_step_of_a_pipeline_depends_on_its_own_options_and_those_of_all():
    goal = {"target_flops", "target_params", "percent", "scope", "skip", "round_to"}
    own = {
        "base": {"weights", "cfg", "base_epochs"},
        "units": goal | {"units", "allow_level_loss", "reconstruct"},
        "sparse": goal | {"sparse_epochs", "penalty", "sr", "max_map_loss", "once", "teacher"},
        "pruned": goal | {"reconstruct"},
        "finetuned": {"finetune_epochs", "recipe", "teacher"},
    }
    options = build(PipelineOptions)
    for step, names in own.items():
        of_all = {"data", "hyp", "augment", "imgsz", "batch_size", "seed", "single_cls"}
        assert set(identity_of(options, step)) == names | of_all
    assert set(options.of_pruning()) == own["pruned"]


def test_options_of_pruning_do_not_change_once_they_are_made():
    for options_class in (PruneOptions, SweepOptions, SensitivityOptions, PipelineOptions):
        with pytest.raises(dataclasses.FrozenInstanceError):
            build(options_class).scope = "all"
        assert build(options_class, **vars(build(options_class))) == build(options_class)


@pytest.mark.parametrize("options_class", OPTIONS)
def test_switches_are_true_or_false(options_class):
    for field in dataclasses.fields(options_class):
        if isinstance(field.default, bool) and field.name != "resume":
            with pytest.raises(InputError, match=f"--{field.name.replace('_', '-')} is a switch"):
                build(options_class, **{field.name: "maybe"})


@pytest.mark.parametrize("device", ["9" * 5000, "x" * 5000, "0," * 5000 + "0", "٣", "cuda:" + "9" * 500])
def test_odd_devices_are_refused_in_short(device):
    with pytest.raises(InputError, match="--device") as caught:
        select_device(device)
    assert len(str(caught.value)) < 300


def test_endless_messages_lose_their_middle():
    assert without_middle("x" * 2000) == "x" * 2000
    told = without_middle("begin" + "x" * 10**5 + "end")
    assert len(told) < 2100
    assert told.startswith("begin") and told.endswith("end")


def test_accepted_values_of_v62():
    for accepted in (
        {"batch_size": -1}, {"save_period": -1}, {"save_period": 0}, {"patience": 10**8}, {"workers": 0}, {"imgsz": 1},
        {"workers": 9999}, {"seed": 2**32 - 1}, {"freeze": [10]}, {"freeze": (0, 3)}, {"label_smoothing": 0},
        {"evolve": 300}, {"local_rank": -1}, {"epochs": 100_000}, {"resume": "last.pt"},
    ):  # fmt: skip
        build(TrainOptions, **accepted)
    build(ValOptions, imgsz=None, conf_thres=0, iou_thres=1)
    build(DetectOptions, imgsz=(640, 480), classes=[0, 15], max_det=1)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 0}, {"imgsz": -1}, {"label_smoothing": 1.0}])
def test_impossible_values_are_named(bad):
    with pytest.raises(InputError, match="--" + next(iter(bad)).replace("_", "-")):
        build(TrainOptions, **bad)


def test_every_shipped_hyperparameter_file_is_valid():
    files = sorted((ROOT / "data/hyps").glob("*.yaml"))
    assert len(files) >= 5
    for file in files:
        assert read_hyperparameters(file)["momentum"] > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr0": "fast"}, "lr0 must be a number"),
        ({"mosaic": 2}, "mosaic"),
        ({"mosiac": 1}, "did you mean 'mosaic'"),
        ({"lr0": float("nan")}, "lr0 must be a number .* got nan"),
        ({"lr0": float("inf")}, "lr0 must be"),
        ({"lr0": [0.1]}, r"lr0 must be .* got \[0.1\]"),
        ({"lr0": True}, "lr0 must be"),
        ({"lr0": None}, "lr0 must be"),
        ({"lr0": "1e-3"}, "YAML reads 1e-3 as text"),
        ({"anchors": 0}, "anchors must be"),
        ({7: 1}, "parameter 7"),
        ({"lr0": 10**50}, "lr0 must be"),
        ({"box": [["x" * 1000] * 9] * 9}, "box must be"),
        ({"x" * 9999: 1}, "unknown hyperparameter 'xxx"),
    ],
)
def test_bad_hyperparameters_are_named(tmp_path, change, message):
    write_yaml(tmp_path / "hyp.yaml", read_yaml(LOW) | change)
    with pytest.raises(InputError, match=message) as caught:
        read_hyperparameters(tmp_path / "hyp.yaml")
    assert len(str(caught.value)) < 400


def test_missing_hyperparameter_is_named():
    values = read_yaml(LOW)
    del values["box"]
    with pytest.raises(InputError, match="lacks box"):
        read_hyperparameters(values)


def test_gains_follow_the_worked_example():
    hyp = scaled_hyperparameters(
        read_hyperparameters(LOW), levels=3, class_count=2, image_size=128, label_smoothing=0.0
    )
    assert hyp["box"] == pytest.approx(0.05)
    assert hyp["cls"] == pytest.approx(0.0125)
    assert hyp["obj"] == pytest.approx(0.04)
