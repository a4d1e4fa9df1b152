"""Options: one definition for the command line and for keywords; hyperparameter files are checked."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from detect import DetectOptions
from utils.config import TrainOptions, build, option, parse, parser_for, read_hyperparameters, scale_gains
from utils.errors import InputError
from utils.files import ROOT, read_yaml, write_yaml
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
        assert "(default: 640)" in told or "(default: [640])" in told
    defaults = build(ValOptions), build(ValOptions, task="speed")
    text = parser_for(ValOptions, "").format_help()
    for name in ("conf_thres", "iou_thres"):
        usual, fast = (getattr(chosen, name) for chosen in defaults)
        assert f"(default: {usual}; with --task speed {fast})" in " ".join(text.split())


def test_unknown_keyword_names_the_close_one():
    with pytest.raises(InputError, match="did you mean 'batch_size'"):
        build(TrainOptions, batchsize=4)


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
    [({"lr0": "fast"}, "lr0 must be a number"), ({"mosaic": 2}, "mosaic"), ({"mosiac": 1}, "did you mean 'mosaic'")],
)
def test_bad_hyperparameters_are_named(tmp_path, change, message):
    write_yaml(tmp_path / "hyp.yaml", read_yaml(LOW) | change)
    with pytest.raises(InputError, match=message):
        read_hyperparameters(tmp_path / "hyp.yaml")


def test_missing_hyperparameter_is_named():
    values = read_yaml(LOW)
    del values["box"]
    with pytest.raises(InputError, match="lacks box"):
        read_hyperparameters(values)


def test_gains_follow_the_worked_example():
    hyp = read_hyperparameters(LOW)
    scale_gains(hyp, levels=3, class_count=2, image_size=128, label_smoothing=0.0)
    assert hyp["box"] == pytest.approx(0.05)
    assert hyp["cls"] == pytest.approx(0.0125)
    assert hyp["obj"] == pytest.approx(0.04)
