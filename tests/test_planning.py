"""From options to a plan: what contradicts, what is protected, what is warned of."""

from __future__ import annotations

import re
from copy import deepcopy

import pytest

from models.yolo import DetectionModel
from prune_tools.channels.groups import find_groups, protect
from prune_tools.make_plan import make_plan, with_hyperparameters
from prune_tools.planning import latency
from prune_tools.planning.options import PlanOptions
from prune_tools.yolo_pruned import prune_model
from tests.conftest import draw_tiny_dataset
from tests.pruning_networks import thin
from utils.commands.options import build
from utils.errors import InputError
from utils.model_info import count_parameters, gflops
from utils.storage.files import read_yaml, write_yaml


@pytest.fixture(scope="module")
def nano() -> DetectionModel:
    return thin("yolov5n").float()


def planned(model: DetectionModel, data: str = "", **options):
    structure, plan = make_plan(model, build(PlanOptions, **options), data, 64)
    return structure.groups, plan


@pytest.mark.parametrize(
    "given, message",
    [
        ({"percent": 0.3, "target_flops": "0.5"}, "--percent and --target-flops contradict each other"),
        ({"target_params": "0.5", "target_latency": "9ms"}, "--target-params and --target-latency contradict"),
        ({"target_flops": "2.1"}, "--target-flops '2.1' is not a valid amount"),
        ({"percent": -0.1}, r"--percent .*\[0, 1\), got -0.1"),
        ({"round_to": 0}, "--round-to must be at least 1"),
        ({"max_layer_ratio": 1.5}, "--max-layer-ratio"),
        ({"score_images": 0}, "--score-images must be at least 1"),
        ({"score_images": 8}, "--score-images 8 only acts with --score taylor"),
    ],
)
def test_bad_options(given, message):
    with pytest.raises(InputError, match=message):
        build(PlanOptions, **given)


def test_defaults_depend_on_what_is_wanted():
    assert (build(PlanOptions).percent, build(PlanOptions).scope) == (0.4, "seed")
    assert build(PlanOptions, percent=0.2, scope="all").scope == "all"
    target = build(PlanOptions, target_params="0.9M")
    assert (target.percent, target.scope) == (None, "all")
    assert build(PlanOptions, target_params="0.9M", scope="seed").scope == "seed"
    assert build(PlanOptions, skip="model.9").skip == ["model.9"]


@pytest.mark.slow
@pytest.mark.parametrize("flag, share", [("target_params", 0.6), ("target_flops", 0.6)])
def test_targets_hold_for_the_pruned_model(nano, flag, share):
    groups, plan = planned(nano, **{flag: str(share)})
    pruned = deepcopy(nano)
    prune_model(pruned, groups, plan)
    cost = count_parameters if flag == "target_params" else gflops
    assert 0.98 * share <= cost(pruned) / cost(nano) <= share


@pytest.mark.slow
def test_latency_of_the_networks_that_plans_leave_is_measured(nano, monkeypatch):
    """Time is made a function of operations; a real clock has no place in a test."""
    asked = []
    monkeypatch.setattr(latency, "check_runtime", asked.append)
    monkeypatch.setattr(latency, "prepare", lambda model, image_size, runtime: model)
    monkeypatch.setattr(
        latency, "time_calls", lambda calls: {name: 3 + 10 * gflops(model) for name, model in calls.items()}
    )
    groups, plan = planned(nano, target_latency="0.7", runtime="openvino")
    pruned = deepcopy(nano)
    prune_model(pruned, groups, plan)
    assert 0.68 <= (3 + 10 * gflops(pruned)) / (3 + 10 * gflops(nano)) <= 0.7
    assert asked == ["openvino"] and "Target met" in plan.summary()


def test_scope_all_reaches_what_scope_seed_does_not(nano):
    cut = {scope: {g.name for g in planned(nano, percent=0.5, scope=scope)[0]} for scope in ("seed", "all")}
    assert {"model.2.m.0.cv1.conv", "model.4.cv1.conv"} <= cut["all"] - cut["seed"]


def test_protected_layers_stay_whole(nano, heard):
    groups, plan = planned(nano, target_params="0.4", skip=["model.9", "model.1?.conv", "model.4.m.1.cv2.bn"])
    names = {group.name for group in groups}
    # model.4.cv1 is coupled with model.4.m.1.cv2; below model.9 lie cv1 and cv2
    assert not names & {"model.9.cv1.conv", "model.9.cv2.conv", "model.10.conv", "model.14.conv", "model.4.cv1.conv"}
    assert "model.1.conv" in names
    assert not {"model.9.cv1.conv", "model.4.cv1.conv"} & set(plan.kept)
    assert "model.9.cv1.conv, model.9.cv2.conv: protected by --skip model.9" in heard.text


def test_protecting_a_reader_does_not_protect_what_it_reads(nano):
    protected = {group.name for group in protect(find_groups(nano), nano, ["model.2"]) if "--skip" in group.reason}
    assert "model.1.conv" not in protected and "model.2.cv3.conv" in protected


def test_pattern_without_a_match_names_close_paths(nano):
    with pytest.raises(InputError, match=r"--skip 'model.9.cv3' fits no layer of this model: .*model\.9\.cv[12]"):
        planned(nano, skip=["model.9.cv3"])


def test_large_gammas_are_warned_of_before_the_cut(nano, heard):
    planned(nano, percent=0.3)
    assert "channels about to be cut have a |gamma| of 0.05 or more" in heard.text
    heard.clear()
    planned(nano, percent=0.01)  # random gammas: the smallest one percent lies below 0.05
    assert "about to be cut" not in heard.text


def test_plan_that_removes_nothing_says_so(nano, heard):
    planned(nano, percent=0.0)
    assert "this plan removes nothing" in heard.text


@pytest.mark.slow
def test_second_pruning_is_told_and_ratios_count_from_there(heard):
    model = thin("yolov5n").float()
    sizes = [count_parameters(model)]
    for _ in range(2):
        groups, plan = planned(model, target_params="0.7")
        prune_model(model, groups, plan)
        sizes.append(count_parameters(model))
    assert sizes[1] / sizes[0] == pytest.approx(0.7, rel=0.02) and sizes[2] / sizes[1] == pytest.approx(0.7, rel=0.02)
    assert heard.text.count("has been pruned before") == 1


@pytest.mark.slow
def test_what_cannot_be_followed_is_named(heard):
    planned(thin("yolov5s-transformer").float(), target_flops="0.7")
    assert "model.8.cv1.conv: it goes into flatten of model.8.m (TransformerBlock)" in heard.text


def test_taylor_scores_from_training_images(nano, tiny_dataset):
    groups, plan = planned(nano, str(tiny_dataset), percent=0.3, score="taylor", score_images=8)
    by_gamma = planned(nano, percent=0.3)[1]
    assert any(plan.kept[group.name].tolist() != by_gamma.kept[group.name].tolist() for group in groups)


def test_taylor_scores_from_classes_that_the_head_does_not_have(nano, tmp_path):
    """They are allowed with --single-cls."""
    data = draw_tiny_dataset(tmp_path / "data")
    write_yaml(data, read_yaml(data) | {"nc": 100, "names": [f"class{index}" for index in range(100)]})
    for file in (tmp_path / "data/labels/train").glob("*.txt"):
        file.write_text(re.sub("^1 ", "99 ", file.read_text(), flags=re.MULTILINE))
    _, plan = planned(nano, str(data), percent=0.3, score="taylor", score_images=8)
    assert sum(map(len, plan.kept.values())) > 0


def test_own_hyperparameters_count(nano):
    model = thin("yolov5n")
    model.hyp = {"box": 1.0}
    assert with_hyperparameters(model, 64).hyp == {"box": 1.0}
    assert with_hyperparameters(nano, 320).hyp["obj"] == pytest.approx(0.25)  # 320 of 640 pixels, squared


def test_budgets_are_rounded_to_what_kernels_like():
    assert build(PlanOptions, target_flops="0.5").limits().round_to == 8
    assert build(PlanOptions, target_flops="0.5", round_to=1).round_to == 1
    assert build(PlanOptions, percent=0.4).round_to == 1
