"""The commands under "Next:": they can be pasted, keep what has to be kept, and contradict no warning."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import detect
import export
import train
import val
from models.loading import load_checkpoint
from models.yolo import DetectionModel
from prune_tools import finetune, pipeline, pipeline_run, prune, prune_run, sensitivity, sweep, train_sparity
from prune_tools.pipeline_options import PipelineOptions
from prune_tools.sparsity.training import steps_after_sparsity
from prune_tools.survey import sensitivity as sensitivity_work
from prune_tools.survey import sweep as sweep_work
from prune_tools.survey.record import Point
from prune_tools.tuning.finetuning import steps_after_finetuning
from tests.conftest import draw_tiny_dataset
from utils.commands.next_steps import ALWAYS, again, following, handed_on
from utils.commands.options import build, command_line, default_of, parser_for, to_dict
from utils.errors import InputError
from utils.storage.files import read_yaml, write_yaml
from utils.training import evolve as evolution
from utils.training.options import TrainOptions

SCRIPTS: dict[str, type] = {
    "train.py": TrainOptions, "val.py": val.ValOptions, "detect.py": detect.DetectOptions,
    "export.py": export.ExportOptions, "prune_tools/train_sparity.py": train_sparity.SparseOptions,
    "prune_tools/prune.py": prune.PruneOptions, "prune_tools/finetune.py": finetune.FinetuneOptions,
    "prune_tools/sweep.py": sweep.SweepOptions, "prune_tools/sensitivity.py": sensitivity.SensitivityOptions,
    "prune_tools/pipeline.py": PipelineOptions,
}  # fmt: skip
AWKWARD = 'it\'s a "long" way; $HOME & more'

pytestmark = pytest.mark.usefixtures("quick_timing")


def read_back(command: str) -> tuple[str, Any]:
    """Script and options of a command, as a shell and the script's own parser read it."""
    python, script, *words = shlex.split(command)
    assert python == "python"
    options = SCRIPTS[script](**vars(parser_for(SCRIPTS[script], "").parse_args(words)))
    return script, options


def proposed(heard: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    """Return what the latest "Next:" of the log proposes, read back."""
    line = next(text for text in reversed(heard.messages) if text.startswith("Next: "))
    return [read_back(command) for command in line.removeprefix("Next: ").split("\n  or: ")]


def as_side(imgsz: int | list[int]) -> int:
    """Return an image size as one number."""
    return imgsz if isinstance(imgsz, int) else imgsz[0]


# -- quoting -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="quoted for another shell there")
def test_every_word_survives_the_shell():
    options = build(TrainOptions, data=f"{AWKWARD}/d.yaml", imgsz=64, device="cpu")
    for command in train.steps_after_training(f"{AWKWARD}/-best.pt", options):
        script, found = read_back(command)
        weights = found.weights if script == "prune_tools/train_sparity.py" else found.weights[0]
        assert (weights, as_side(found.imgsz)) == (f"{AWKWARD}/-best.pt", 64)
        assert script == "detect.py" or found.data == f"{AWKWARD}/d.yaml"
    name = build(TrainOptions, name="-x")
    assert read_back(command_line("train.py", TrainOptions, to_dict(name)))[1].name == "-x"


def test_windows_has_quotes_of_its_own(monkeypatch):
    monkeypatch.setattr("utils.commands.options.os.name", "nt")
    command = following("val.py", val.ValOptions, None, weights="C:\\my runs\\best.pt", data="it's.yaml")
    assert command == 'python val.py --weights "C:\\my runs\\best.pt" --data it\'s.yaml'


# -- what is repeated --------------------------------------------------------------------------------------------------


def other_value(field: dataclasses.Field) -> Any:
    """A value of an option that is not its default."""
    known = {"round_to": 4, "scope": "all", "skip": ["model.9"], "score_images": 64, "score": "taylor",
             "data": "d.yaml", "device": "cpu", "cfg": "c.yaml", "max_layer_ratio": 0.5, "images": 3}  # fmt: skip
    default = default_of(field)
    if field.name in known:
        return known[field.name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 32
    return default / 2


@pytest.mark.parametrize(
    ("source", "script"),
    [(sweep.SweepOptions, "prune_tools/prune.py"), (sensitivity.SensitivityOptions, "prune_tools/sweep.py")],
)
def test_a_survey_hands_on_every_option_that_the_next_command_has(source, script):
    """The figures that it has measured are those that the next command will find again."""
    shared = {field.name: field for field in dataclasses.fields(source) if field.metadata["handed_on"]}
    names = set(handed_on(build(source), SCRIPTS[script])) | {"round_to"}
    assert {"conf_thres", "iou_thres", "max_det", "half", "batch_size", "single_cls", "fold", "score"} <= names
    for name in names - {"score_images", "dnn"}:
        value = other_value(shared[name])
        given = build(source, weights="w.pt", **{name: value})
        if source is sweep.SweepOptions:
            command = sweep_work.prune_command(given, 0.3, Path("run"))
        else:
            command = sensitivity_work.sweep_command(given)
        assert getattr(read_back(command)[1], name) == value, name
    whole = build(source, weights="w.pt", **{name: other_value(shared[name]) for name in names - {"dnn"}})
    command = sweep_work.prune_command(whole, 0.3, Path("run")) if source is sweep.SweepOptions else (
        sensitivity_work.sweep_command(whole))  # fmt: skip
    script_found, found = read_back(command)
    assert script_found == script
    assert all(getattr(found, name) == getattr(whole, name) for name in names)


CHANGES = {"data": "d.yaml", "imgsz": 96, "batch_size": 3, "device": "cpu", "workers": 2, "single_cls": True}


@pytest.mark.parametrize("finished", ["train", "sparse", "prune", "finetune"])
def test_a_stage_hands_on_what_the_next_needs(finished):
    if finished == "train":
        commands = train.steps_after_training("b.pt", build(TrainOptions, epochs=7, name="x", seed=0, **CHANGES))
    elif finished == "sparse":
        options = build(train_sparity.SparseOptions, epochs=7, name="x", **CHANGES)
        commands = steps_after_sparsity("b.pt", options, penalty=None)
    elif finished == "prune":
        rows = [type("Row", (), {"map50": value}) for value in (0.8, 0.2)]
        options = build(prune.PruneOptions, weights="b.pt", name="x", percent=0.3, **CHANGES)
        commands = prune_run.next_steps(Path("p.pt"), options, {"model": None}, rows)
    else:
        commands = steps_after_finetuning("b.pt", build(finetune.FinetuneOptions, epochs=7, name="x", **CHANGES))
    for command in commands:
        script, found = read_back(command)
        kept = set(handed_on(build(TrainOptions), SCRIPTS[script]))
        assert {"imgsz"} <= kept
        for name, value in CHANGES.items():
            if name in kept:
                assert (as_side(found.imgsz) if name == "imgsz" else getattr(found, name)) == value
        assert getattr(found, "name", "exp") == "exp"
        if hasattr(found, "single_cls"):
            assert found.single_cls
    assert {"prune": "--recipe short", "finetune": "python export.py"}.get(finished, "") in " ".join(commands)


def test_defaults_that_nobody_gave_are_not_repeated_except_data_and_size():
    given = build(TrainOptions)
    words = shlex.split(following("prune_tools/finetune.py", finetune.FinetuneOptions, given))
    assert [word for word in words if word.startswith("--")] == [f"--{name}" for name in ALWAYS]
    command = following("prune_tools/finetune.py", finetune.FinetuneOptions, given, recorded=ALWAYS, weights="w.pt")
    assert command == "python prune_tools/finetune.py --weights w.pt"
    assert following("val.py", val.ValOptions, build(prune.PruneOptions)) == "python val.py"


def test_what_one_process_cannot_use_is_left_out():
    options = build(TrainOptions, device="0,1", batch_size=-1)
    sparse, validation, _ = train.steps_after_training("b.pt", options)
    assert "--device 0 " in validation + " " and "--batch-size" not in validation
    assert "--device 0,1" in sparse and "--batch-size -1" in sparse


@pytest.mark.parametrize("options_class", [TrainOptions, train_sparity.SparseOptions, finetune.FinetuneOptions])
def test_after_evolution_the_same_command_trains_with_what_was_found(options_class, tmp_path, heard, monkeypatch):
    monkeypatch.setattr(evolution, "plot_evolve", lambda _: None)
    published = {"st": True} if options_class is train_sparity.SparseOptions else {}  # polarize does not evolve
    options = build(
        options_class, **published, evolve=1, weights="my model.pt", data="d.yaml", imgsz=64, epochs=5,
        project=str(tmp_path), hyp="data/hyps/hyp.scratch-med.yaml", single_cls=True, cos_lr=True, exist_ok=True,
    )  # fmt: skip
    evolution.evolve(options, lambda *_: (0.1,) * 7)
    [(script, found)] = proposed(heard)
    assert script == options_class.script
    changed = {"hyp": str(tmp_path / "exp/hyp_evolve.yaml"), "evolve": None, "resume": False, "exist_ok": False}
    assert vars(found) == vars(options) | changed


# -- no contradiction --------------------------------------------------------------------------------------------------


class Missed:
    """A penalty that has not reached its goal."""

    def __init__(self, share: float) -> None:
        self.share_of_best = share


def test_after_a_penalty_that_was_too_weak_no_more_is_pruned_than_it_has_made_small():
    options = build(train_sparity.SparseOptions, weights="w.pt", data="d.yaml", sr=0.0005, skip=["model.9"])
    [command] = steps_after_sparsity("b.pt", options, penalty=Missed(0.0))
    script, better = read_back(command)
    assert (script, better.penalty, better.weights, better.target_flops, better.scope) == (
        "prune_tools/train_sparity.py", "polarize", "w.pt", "0.5", "all",
    )  # fmt: skip
    assert not {"--st", "--sr", "--sr-beta", "--target-share"} & set(shlex.split(command))
    found = [read_back(text) for text in steps_after_sparsity("b.pt", options, penalty=Missed(0.2378))]
    assert [script for script, _ in found] == ["prune_tools/train_sparity.py", "prune_tools/prune.py"]
    assert (found[1][1].percent, found[1][1].skip, found[1][1].weights) == (0.237, ["model.9"], ["b.pt"])
    polarized = build(train_sparity.SparseOptions, target_flops="0.4", weights="w.pt", epochs=20)
    longer, smaller = steps_after_sparsity("b.pt", polarized, penalty=Missed(0.1))
    assert longer == "python prune_tools/train_sparity.py --weights w.pt --epochs 40 --target-flops 0.4"
    assert smaller == "python prune_tools/prune.py --weights b.pt --percent 0.1 --scope all"
    kept = build(train_sparity.SparseOptions, target_share=0.3, scope="all", weights="w.pt", name="n", exist_ok=True)
    command = again(kept, teacher="t.pt")
    assert read_back(command)[1] == dataclasses.replace(kept, teacher="t.pt", exist_ok=False)
    assert command.endswith("--weights w.pt --name n --teacher t.pt --scope all --target-share 0.3")


def test_without_a_proposal_a_sweep_leads_to_sparse_training_or_to_a_look_at_the_model():
    options = build(sweep.SweepOptions, weights="w.pt", data="d.yaml", imgsz=96, device="cpu")
    whole = Point("", 0.0, 1, 1, 1.0, 0, 0, 0, 0.5)
    script, found = read_back(sweep_work.command_without_proposal(options, [whole]))
    assert (script, found.penalty, found.weights) == ("prune_tools/train_sparity.py", "polarize", "w.pt")
    assert read_back(sweep_work.command_without_proposal(options, [dataclasses.replace(whole, map=0.0)]))[0] == "val.py"


def test_a_plan_that_removes_nothing_leads_to_a_sweep():
    options = build(prune.PruneOptions, weights="w.pt")
    rows = [type("Row", (), {"map50": 0.5})] * 2
    [command] = prune_run.next_steps(Path("p.pt"), options, {"model": None}, rows, pruned=False)
    assert read_back(command)[0] == "prune_tools/sweep.py"


# -- the whole road of a model with one class --------------------------------------------------------------------------

MAINS = {
    "val.py": val.main, "prune_tools/train_sparity.py": train_sparity.main, "prune_tools/prune.py": prune.main,
    "prune_tools/finetune.py": finetune.main, "prune_tools/sweep.py": sweep.main,
    "prune_tools/sensitivity.py": sensitivity.main, "export.py": export.main,
}  # fmt: skip
QUICK: dict[str, dict[str, Any]] = {
    "prune_tools/train_sparity.py": {"epochs": 2, "target_flops": "", "target_share": 0.3, "round_to": 1,
                                     "noplots": True, "scope": "all"},
    "prune_tools/prune.py": {"reconstruct": 8, "batch_size": 4},
    "prune_tools/finetune.py": {"epochs": 1, "noplots": True},
    "prune_tools/sweep.py": {"ratios": [0.2], "reconstruct": 0, "batch_size": 4},
    "val.py": {}, "export.py": {"include": ["torchscript"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def one_class(tiny_cfg: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set with two classes, and the checkpoint of a model trained on it as one; their folder has spaces."""
    folder = tmp_path_factory.mktemp("it's one class")
    data = draw_tiny_dataset(folder / "data")
    train.main(build(
        TrainOptions, data=str(data), cfg=str(tiny_cfg), weights="", imgsz=64, batch_size=4, epochs=1, workers=0,
        device="cpu", project=str(folder), noplots=True, single_cls=True,
    ))  # fmt: skip
    return data, folder / "exp/weights/best.pt"


def test_the_road_of_a_model_with_one_class(one_class, tmp_path, heard):
    """Each command proposes the next one, and that one runs with what the weights say, from training to export."""
    data, best = one_class
    options = build(TrainOptions, data=str(data), imgsz=64, batch_size=4, workers=0, device="cpu", single_cls=True)
    steps = [read_back(command) for command in train.steps_after_training(str(best), options, ALWAYS)]
    seen: list[str] = []
    while steps:
        script, found = steps.pop(0)
        if script == "detect.py" or script in seen:
            continue
        assert not getattr(found, "imgsz", None) and (script == "val.py" or not found.data)
        changes = QUICK[script] | ({"project": str(tmp_path)} if hasattr(found, "project") else {})
        heard.clear()
        MAINS[script](type(found)(**(vars(found) | changes)))
        seen.append(script)
        steps = proposed(heard) + steps  # the likeliest first, to the end of the road
    assert seen == ["prune_tools/train_sparity.py", "prune_tools/prune.py", "prune_tools/finetune.py", "export.py",
                    "val.py"]  # fmt: skip
    for file in tmp_path.rglob("pruned_model.pt"):
        assert list(load_checkpoint(file)["model"].names) == ["item"]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("script", ["val.py", "prune_tools/prune.py", "prune_tools/sweep.py"])
def test_commands_know_a_model_with_one_class_by_itself(one_class, tmp_path, heard, script, given):
    data, best = one_class
    changes = {"weights": str(best), "data": str(data), "imgsz": 64, "project": str(tmp_path), "device": "cpu",
               "workers": 0, "single_cls": given}  # fmt: skip
    more = {"score": "taylor", "score_images": 8, "percent": 0.2} if "prune.py" in script else {}
    MAINS[script](build(SCRIPTS[script], **changes, **QUICK[script], **more))
    assert ("was trained with --single-cls" in heard.text) != given


def test_other_classes_are_still_refused(one_class, tiny_cfg, tmp_path):
    data, _ = one_class
    write_yaml(tmp_path / "named.yaml", read_yaml(data) | {"nc": 3, "names": ["a"] * 3})
    torch.save({"model": DetectionModel(str(tiny_cfg))}, tmp_path / "two.pt")
    with pytest.raises(InputError, match="was trained on 2 classes"):
        prune.main(build(prune.PruneOptions, weights=str(tmp_path / "two.pt"), data=str(tmp_path / "named.yaml")))


def test_the_pipeline_goes_the_same_road(one_class, tmp_path, heard, monkeypatch):
    data, best = one_class
    without = {"noplots": True}  # charts take most of the time
    monkeypatch.setattr(pipeline_run, "build", lambda kind, **given: build(
        kind, **given, **(without if issubclass(kind, TrainOptions) else {})
    ))  # fmt: skip
    pipeline.main(build(
        PipelineOptions, data=str(data), weights=str(best), imgsz=64, batch_size=4, base_epochs=1, sparse_epochs=1,
        finetune_epochs=1, percent=0.2, device="cpu", workers=0, project=str(tmp_path), single_cls=True, reconstruct=8,
    ))  # fmt: skip
    assert [script for script, _ in proposed(heard)] == ["export.py", "detect.py"]
    for step in ("base", "sparse", "finetuned"):
        assert list(load_checkpoint(tmp_path / f"exp/{step}/weights/best.pt")["model"].names) == ["item"]


def test_all_commands_are_proposed_in_one_way():
    """No "Next:" is written by hand."""
    root = Path(train.__file__).parent
    files = [
        *root.glob("*.py"),
        *root.glob("models/**/*.py"),
        *root.glob("utils/**/*.py"),
        *root.glob("prune_tools/**/*.py"),
        *root.glob("data/**/*.py"),
    ]
    by_hand = [file.name for file in files if re.search(r'"[^"\n]*Next: (python|\{)', file.read_text(encoding="utf-8"))]
    assert by_hand == []
    assert again(build(TrainOptions, name="x"), name="exp") == "python train.py"
