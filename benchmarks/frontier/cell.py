"""One cell: the network is made, fine-tuned by every recipe, chosen on val, and measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frontier.bootstrap import mean_ap
from benchmarks.frontier.costs import Spent, affordable_epochs, total
from benchmarks.frontier.cuts import Cutter, Start
from benchmarks.frontier.matches import Matches, match
from benchmarks.frontier.options import FrontierOptions
from benchmarks.frontier.tasks import Task
from benchmarks.frontier.trainings import Bench, operations
from prune_tools.opening import load_model
from utils.dataset.description import check_dataset
from utils.errors import InputError
from utils.log import LOGGER
from utils.metrics import fitness
from utils.model_info import count_parameters
from utils.storage.files import write_json

RESULT = "result.json"


@dataclass(frozen=True)
class Trial:
    """One fine-tuning of one start: ``matches`` are of val."""

    start: Start
    recipe: str
    rate: float
    tuning: Spent
    checkpoint: Path
    matches: Matches

    @property
    def accuracy(self) -> tuple[float, float]:
        """mAP50 and mAP50-95 on val."""
        return accuracy_of(self.matches)

    @property
    def merit(self) -> float:
        """The fitness by which best.pt is chosen, too."""
        return float(fitness(np.array([[0.0, 0.0, *self.accuracy]]))[0])


def accuracy_of(matches: Matches) -> tuple[float, float]:
    """mAP50 and mAP50-95 of all images."""
    map50, map50_95 = mean_ap(matches, np.ones((1, len(matches.images)), int))[0]
    return float(map50), float(map50_95)


def run_cell(options: FrontierOptions, task: Task) -> dict[str, Any]:
    """The result of a cell, from its file if it is finished; else it is continued, measured and written.

    Raises:
        InputError: the method cannot reach the budget, or the cost does not pay for it.
    """
    bench = Bench(options, task)
    file = bench.folder / RESULT
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    trials = [
        _tuned(bench, start, recipe, rate)
        for start in Cutter(bench).starts()
        for recipe, rate in product(options.recipes, options.rates)
    ]
    chosen = max(trials, key=lambda trial: trial.merit)
    result = _measured(bench, chosen)
    result["trials"] = [
        {"variant": trial.start.variant, "recipe": trial.recipe, "rate": trial.rate, "val": trial.accuracy}
        for trial in trials
    ]
    write_json(file, result)
    return result


def _tuned(bench: Bench, start: Start, recipe: str, rate: float) -> Trial:
    """Fine-tune for what is left of the cost, and measure on val."""
    share = bench.relative(start.checkpoint, start.image_size)
    teacher = bench.relative(bench.teacher(), start.image_size) if bench.has_teacher else 0.0
    left = bench.options.cost - total(start.spent)
    epochs = affordable_epochs(left, share, teacher)
    if not epochs:
        raise InputError(
            f"{left:.3g} of --cost {bench.options.cost:g} is left for fine-tuning, which does not pay for one epoch"
        )
    name = "-".join(filter(None, (start.variant, recipe, f"{rate:g}")))
    LOGGER.info(f"\n{bench.task.name}, {name}: {epochs} epochs, operations x {share:.3g} of the base's")
    best = bench.tune(start.checkpoint, epochs, recipe, rate, bench.folder / name, start.image_size)
    return Trial(
        start, recipe, rate, Spent("fine-tuning", epochs, share, teacher), best, _match(bench, best, "val", start)
    )


def _match(bench: Bench, checkpoint: Path, split: str, start: Start) -> Matches:
    options = bench.options
    return match(
        bench.data, checkpoint, split, start.image_size, batch_size=2 * options.batch_size, device=options.device,
        workers=options.workers,
    )  # fmt: skip


def _measured(bench: Bench, trial: Trial) -> dict[str, Any]:
    """The record of a cell: figures, spending, and the matches of every split that the data set has."""
    matches = {"val": trial.matches}
    if check_dataset(bench.data, splits=("val",)).get("test"):
        matches["test"] = _match(bench, trial.checkpoint, "test", trial.start)
    stages = [*trial.start.spent, trial.tuning]
    network, _ = load_model(trial.checkpoint)
    root = Path(bench.options.folder).resolve()
    return {
        "parameters": count_parameters(network),
        "gflops": operations(trial.checkpoint) * (trial.start.image_size / bench.image_size) ** 2,
        "base_gflops": bench.base_operations(),
        "image_size": trial.start.image_size,
        "variant": trial.start.variant,
        "recipe": trial.recipe,
        "rate": trial.rate,
        "checkpoint": trial.checkpoint.resolve().relative_to(root).as_posix(),
        "cost": total(stages),
        "stages": [stage.record() for stage in stages],
        "accuracy": {split: accuracy_of(each) for split, each in matches.items()},
        "matches": {split: each.to_text() for split, each in matches.items()},
    }
