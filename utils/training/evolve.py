"""Evolution of hyperparameters: each generation mutates one of the best so far, trains with it, and is recorded."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.checks import check_file
from utils.commands.interrupts import advising
from utils.commands.next_steps import again, log_next
from utils.errors import InputError
from utils.log import LOGGER, colorstr
from utils.loggers import RESULT_COLUMNS
from utils.metrics import fitness
from utils.plots import plot_evolve
from utils.storage.files import WORK, atomic_path, write_yaml
from utils.storage.folder_lock import claimed_folder
from utils.training.engine import DivergedError
from utils.training.hyperparameters import read_hyperparameters
from utils.training.options import TrainOptions
from utils.training.run_folder import RunFolder

PARENTS = 5  # the best generations, of which one is mutated
MUTATION_PROBABILITY = 0.8
MUTATION_SPREAD = 0.2
DEFAULT_ANCHORS = 3  # per level, when the hyperparameter file has none
METRICS = RESULT_COLUMNS[3:10]  # P, R, mAP50, mAP50-95 and the three validation losses

# Lowest and highest value of each hyperparameter
SPANS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("flipud", "fliplr", "mosaic", "mixup", "copy_paste"), (0.0, 1.0)),
    **dict.fromkeys(("hsv_s", "hsv_v", "translate", "scale"), (0.0, 0.9)),
    **dict.fromkeys(("cls_pw", "obj_pw"), (0.5, 2.0)),
    **dict.fromkeys(("cls", "obj"), (0.2, 4.0)),
    "box": (0.02, 0.2), "iou_t": (0.1, 0.7), "anchor_t": (2.0, 8.0), "anchors": (2.0, 10.0), "fl_gamma": (0.0, 2.0),
    "hsv_h": (0.0, 0.1), "degrees": (0.0, 45.0), "shear": (0.0, 10.0), "perspective": (0.0, 0.001),
    "lr0": (1e-5, 0.1), "lrf": (0.01, 1.0), "momentum": (0.6, 0.98), "weight_decay": (0.0, 0.001),
    "warmup_epochs": (0.0, 5.0), "warmup_momentum": (0.0, 0.95), "warmup_bias_lr": (0.0, 0.2),
}  # fmt: skip
# Strength of its mutations, 0 = never; 1 unless it is named here
GAINS: dict[str, float] = {
    "momentum": 0.3,
    "anchors": 2.0,
    **dict.fromkeys(("iou_t", "fl_gamma", "perspective", "fliplr"), 0.0),
}


class Evolution:
    """The record of an evolution in ``folder``: evolve.csv, hyp_evolve.yaml (the best so far) and evolve.png.

    An existing evolve.csv is continued. Equal seeds give equal mutations.

    Attributes:
        results: (generations, 7) metrics as in ``METRICS``. values: (generations, genes), in the order of ``names``.
    """

    def __init__(self, folder: Path, hyp: dict[str, Any], anchors: bool = True, seed: int = 0) -> None:
        """Start from ``hyp``; without ``anchors`` their number is not evolved. Raises InputError for a wrong record."""
        start = {name: value for name, value in hyp.items() if name != "anchors" or anchors}
        if anchors:
            start.setdefault("anchors", DEFAULT_ANCHORS)
        self.folder = folder
        self.start = start
        self.names = list(start)
        self.seed = seed
        self.file = folder / "evolve.csv"
        table = np.zeros((0, len(METRICS) + len(self.names)))
        if self.file.is_file():
            table = _read_generations(self.file, [*METRICS, *self.names])
        self.results = table[:, : len(METRICS)]
        self.values = table[:, len(METRICS) :]

    @property
    def fitness(self) -> np.ndarray:
        """Figure of merit of each generation so far."""
        return fitness(self.results)

    def propose(self) -> dict[str, float]:
        """The hyperparameters of the next generation, in their ranges: the first is the start itself."""
        values = np.array([float(self.start[name]) for name in self.names])  # (genes,)
        if len(self.results):
            generator = np.random.default_rng((self.seed, len(self.results)))
            values = self._parent(generator) * self._mutation(generator)
        lowest, highest = np.array([SPANS[name] for name in self.names]).T
        return dict(zip(self.names, values.clip(lowest, highest).round(5).tolist(), strict=True))

    def _parent(self, generator: np.random.Generator) -> np.ndarray:
        """(genes,) of one of the best generations, drawn with a probability that rises with fitness."""
        best = np.argsort(-self.fitness, kind="stable")[:PARENTS]
        weight = self.fitness[best] - self.fitness[best].min() + 1e-6
        return self.values[generator.choice(best, p=weight / weight.sum())]

    def _mutation(self, generator: np.random.Generator) -> np.ndarray:
        """(genes,) factors, at least one of which is not 1."""
        gains = np.array([GAINS.get(name, 1.0) for name in self.names])
        factors = np.ones(len(gains))
        while (factors == 1).all():
            hit = generator.random(len(gains)) < MUTATION_PROBABILITY
            step = generator.standard_normal(len(gains)) * generator.random() * MUTATION_SPREAD
            factors = (1 + gains * hit * step).clip(0.3, 3.0)
        return factors

    def record(self, hyp: dict[str, float], results: Sequence[float]) -> None:
        """Add a generation to the three files; ``results`` are the 7 of ``METRICS``; NaN counts as 0."""
        row = np.nan_to_num(np.array(results, dtype=float), posinf=0.0, neginf=0.0)
        self.results = np.vstack([self.results, row])
        self.values = np.vstack([self.values, [hyp[name] for name in self.names]])
        lines = [",".join(f"{name:>20}" for name in (*METRICS, *self.names))]
        for numbers in np.hstack([self.results, self.values]):
            lines.append(",".join(f"{number:20.5g}" for number in numbers))
        with atomic_path(self.file) as draft:
            draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
        best = int(self.fitness.argmax())
        header = (
            f"Hyperparameters after {len(self.results)} generations; the best is generation {best}\n"
            + ", ".join(f"{name:>20}" for name in METRICS)
            + "\n"
            + ", ".join(f"{value:20.5g}" for value in self.results[best])
        )
        write_yaml(
            self.folder / "hyp_evolve.yaml", dict(zip(self.names, self.values[best].tolist(), strict=True)), header
        )


def _read_generations(file: Path, columns: list[str]) -> np.ndarray:
    """The numbers of evolve.csv, (generations, columns). Raises InputError when it is damaged or has other columns."""
    text = file.read_text(encoding="utf-8", errors="replace")
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.replace("\0", "?").splitlines())]
    if rows and rows[0] != columns and all(cell in rows[0] for cell in METRICS):
        raise InputError(f"{file} records other hyperparameters: choose another --name")
    try:
        table = np.array([[float(cell) for cell in row] for row in rows[1:]], dtype=float).reshape(-1, len(columns))
    except ValueError:
        table = np.full((1, 1), np.nan)
    if not rows or rows[0] != columns or not np.isfinite(table).all():
        raise InputError(f"{file} is damaged: delete its wrong lines, or choose another --name")
    return table


def evolve(
    options: TrainOptions, train: Callable[[TrainOptions, RunFolder, dict[str, Any]], Sequence[float] | None]
) -> tuple[float, ...]:
    """Train once for each generation; returns the results of the best one.

    The folder keeps the record of all generations and no weights. With --resume or --exist-ok an evolution is continued
    by as many generations as --evolve says.

    Args:
        train: one training with the given options, folder and hyperparameters, which returns the results (7,) of its
            last epoch, or None when it was stopped.
    """
    project = WORK / "runs/evolve" if options.project == TrainOptions.project else Path(options.project)
    with (
        claimed_folder(project / options.name, options.exist_ok or bool(options.resume)) as folder,
        advising(lambda: "continue with --resume"),
    ):
        return _evolve_in(folder, options, train)


def _evolve_in(
    folder: Path,
    options: TrainOptions,
    train: Callable[[TrainOptions, RunFolder, dict[str, Any]], Sequence[float] | None],
) -> tuple[float, ...]:
    asked = options
    options = replace(options, noval=True, nosave=True, noplots=True, resume=False)
    start = read_hyperparameters(check_file(options.hyp))
    keeps_anchors = options.noautoanchor or (options.keeps_anchors and bool(options.weights))
    evolution = Evolution(folder, start, anchors=not keeps_anchors, seed=options.seed)
    for number in range(options.evolve or 0):
        hyp = evolution.propose()
        LOGGER.info(colorstr(f"\nGeneration {number + 1}/{options.evolve}: ") + str(hyp))
        try:
            results = train(options, RunFolder(folder), hyp)
        except DivergedError as error:
            LOGGER.warning(f"this generation counts as the worst: {error}")
            results = [0.0] * len(METRICS)
        if results is None:
            break
        evolution.record(hyp, results)
    if not len(evolution.results):
        return (0.0,) * len(METRICS)
    plot_evolve(evolution.file)
    LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}: evolve.csv, hyp_evolve.yaml, evolve.png")
    log_next(again(asked, hyp=str(folder / "hyp_evolve.yaml"), evolve=None, resume=False))
    return tuple(evolution.results[evolution.fitness.argmax()].tolist())
