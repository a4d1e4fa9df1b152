"""Evolution of hyperparameters: mutation, ranges, its files, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune_tools.tuning.options import FinetuneOptions
from utils.commands.options import build
from utils.errors import InputError
from utils.plots import plot_evolve
from utils.storage.files import ROOT, read_yaml
from utils.training.engine import DivergedError
from utils.training.evolve import GAINS, METRICS, SPANS, Evolution, evolve
from utils.training.hyperparameters import HYPERPARAMETER_RANGES, read_hyperparameters
from utils.training.options import TrainOptions

HYP = read_hyperparameters(ROOT / "data/hyps/hyp.scratch-low.yaml")


def results(merit: float) -> tuple[float, ...]:
    return (0.5, 0.5, merit, merit, 0.1, 0.1, 0.1)


def test_every_hyperparameter_has_a_span_within_its_range() -> None:
    assert set(SPANS) == set(HYPERPARAMETER_RANGES) | {"anchors"} and set(GAINS) < set(SPANS)
    for name, (low, high) in HYPERPARAMETER_RANGES.items():
        assert low <= SPANS[name][0] < SPANS[name][1] <= high


def test_the_first_generation_is_the_start(tmp_path: Path) -> None:
    evolution = Evolution(tmp_path, HYP)
    assert evolution.propose() == pytest.approx(HYP | {"anchors": 3})
    assert "anchors" not in Evolution(tmp_path, HYP, anchors=False).propose()
    assert Evolution(tmp_path, HYP | {"lr0": 5.0}).propose()["lr0"] == 0.1  # brought into the range


def test_mutations_stay_in_range_and_leave_fixed_genes_alone(tmp_path: Path) -> None:
    evolution = Evolution(tmp_path, HYP)
    for merit in range(12):
        hyp = evolution.propose()
        assert all(SPANS[name][0] <= value <= SPANS[name][1] for name, value in hyp.items())
        assert (hyp["iou_t"], hyp["fliplr"], hyp["perspective"]) == (0.2, 0.5, 0.0)
        evolution.record(hyp, results(merit / 12))
    assert len(np.unique(evolution.values[:, evolution.names.index("lr0")])) > 6


def test_the_fitter_parent_is_mutated(tmp_path: Path) -> None:
    evolution = Evolution(tmp_path, HYP, seed=1)
    for lr0, merit in ((0.001, 0.1), (0.05, 0.9)):
        evolution.record(evolution.propose() | {"lr0": lr0}, results(merit))
    assert evolution.propose()["lr0"] > 0.01  # of 0.05: the other has a weight of a millionth


@pytest.mark.slow
def test_files_and_going_on(tmp_path: Path) -> None:
    evolution = Evolution(tmp_path, HYP)
    for merit in (0.1, 0.3, 0.2):
        evolution.record(evolution.propose(), results(merit))
    header, *rows = (tmp_path / "evolve.csv").read_text().splitlines()
    assert [cell.strip() for cell in header.split(",")] == [*METRICS, *HYP, "anchors"]
    assert {len(cell) for row in rows for cell in row.split(",")} == {20} and len(rows) == 3
    best = (tmp_path / "hyp_evolve.yaml").read_text()
    assert "3 generations; the best is generation 1" in best
    assert (
        read_hyperparameters(tmp_path / "hyp_evolve.yaml")["lr0"] == evolution.values[1, evolution.names.index("lr0")]
    )
    again = Evolution(tmp_path, HYP)
    np.testing.assert_allclose(again.fitness, [0.1, 0.3, 0.2], atol=1e-4)
    assert set(again.propose()) == set(HYP) | {"anchors"}
    with pytest.raises(InputError, match="records other hyperparameters"):
        Evolution(tmp_path, HYP, anchors=False)
    plot_evolve(again.file)
    assert (tmp_path / "evolve.png").stat().st_size > 10_000


def test_equal_seeds_mutate_alike(tmp_path: Path) -> None:
    proposals = []
    for number, seed in enumerate((0, 0, 1)):
        (tmp_path / str(number)).mkdir()
        evolution = Evolution(tmp_path / str(number), HYP, seed=seed)
        evolution.record(evolution.propose(), results(0.5))
        proposals.append(evolution.propose())
    assert proposals[0] == proposals[1] != proposals[2]


@pytest.mark.slow
def test_a_generation_whose_loss_explodes_is_the_worst(tmp_path: Path) -> None:
    tried: list[dict[str, Any]] = []

    def train(options: TrainOptions, folder: Any, hyp: dict[str, Any]) -> tuple[float, ...]:
        tried.append(hyp)
        assert options.noval and options.nosave and options.noplots
        if len(tried) == 2:
            raise DivergedError("the loss became nan")
        return results(0.1 * len(tried))

    options = build(TrainOptions, evolve=3, project=str(tmp_path))
    assert evolve(options, train)[3] == pytest.approx(0.3)
    assert len(tried) == 3
    lines = (tmp_path / "exp/evolve.csv").read_text().splitlines()
    assert set(lines[2].split(",")[0].split()) == {"0"}
    evolve(build(TrainOptions, evolve=1, project=str(tmp_path), resume=True), train)  # goes on in the same folder
    assert len((tmp_path / "exp/evolve.csv").read_text().splitlines()) == 5
    assert read_yaml(tmp_path / "exp/hyp_evolve.yaml")["momentum"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("options_class, has_anchors", [(TrainOptions, True), (FinetuneOptions, False)])
def test_a_trained_head_keeps_its_anchors_in_fine_tuning(tmp_path: Path, options_class, has_anchors) -> None:
    proposals: list[dict[str, Any]] = []

    def train(options: TrainOptions, folder: object, hyp: dict[str, Any]) -> list[float]:
        proposals.append(hyp)
        return [0.5] * len(METRICS)

    hyp_file = str(ROOT / "data/hyps/hyp.scratch-low.yaml")
    evolve(build(options_class, weights="pruned.pt", hyp=hyp_file, evolve=1, project=str(tmp_path)), train)
    assert ("anchors" in proposals[0]) == has_anchors
