#!/usr/bin/env python3
"""Accuracy against size: this project's pruning compared with other methods, from the same trained model.

    python benchmarks/frontier.py --data data/mask_demo.yaml --base base.pt --sparse sparse.pt --imgsz 320

Each method prunes the network to the same numbers of operations. The result is fine-tuned for the same epochs by one
rule: recipe gentle, or short where pruning cost more than a twentieth of the base's mAP50. ``--base`` is the trained
model (train.py), ``--sparse`` one trained with an L1 penalty (train_sparity.py --sr). The methods:

* original: the channels outside shortcuts by their gammas, no repair, as the original tools do
* torch-pruning: batch-norm scale importance, global, coupled channels (pip install torch-pruning)
* ours: coupled channels, constants folded, layers re-fitted
* ours+teacher: the same pruned network, fine-tuned with the base model as teacher
* polarize+teacher: sparse training with --penalty polarize for each target, from the base, then as ours+teacher; this
  is what pipeline.py does

Measured cells are kept in ``frontier.json``. The same command continues where it stopped, also within a training.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import val
from benchmarks.frontier_table import RUNTIMES, SIZE, Cell, as_table, draw
from models.widths import measure_widths
from models.yolo import DetectionModel
from prune_tools import finetune, prune, train_sparity
from prune_tools.channels.structure import Structure
from prune_tools.opening import load_model
from prune_tools.pipeline_run import resumable
from prune_tools.planning.costs import CostModel
from prune_tools.planning.latency import prepare, time_calls
from prune_tools.planning.plan import plan_by_percent
from prune_tools.planning.scores import gamma_scores
from prune_tools.survey.record import checkpoint_digest
from prune_tools.tuning.recipes import recipe_after
from prune_tools.yolo_pruned import record_widths, save_model
from utils.checks import check_file
from utils.commands.cli import run_command, show_arguments
from utils.commands.options import build, option, parse
from utils.errors import InputError
from utils.log import LOGGER, colorstr
from utils.model_info import count_parameters, gflops
from utils.storage.files import ROOT, atomic_path, make_folder

METHODS = ("original", "torch-pruning", "ours", "ours+teacher", "polarize+teacher")
ROUNDING = 8  # channel multiple of all methods but the original, which has none
BISECTIONS = 12  # of the share of channels, to meet the number of operations
RATIOS = [step / 50 for step in range(1, 50)]  # pruning ratios tried with Torch-Pruning
FINE_STEPS = 20  # between two of these ratios


@dataclass
class FrontierOptions:
    """Options of the benchmark."""

    base: str = option("", "trained checkpoint")
    sparse: str = option("", "checkpoint of sparse training from the base with an L1 penalty")
    data: str = option(str(ROOT / "data/mask_demo.yaml"), "data set YAML")
    flops: list[float] = option([0.75, 0.5, 0.3], "shares of the base's operations to keep", nargs="+")
    methods: list[str] = option(list(METHODS), "methods to compare", nargs="+", choices=METHODS)
    sparse_epochs: int = option(20, "epochs of sparse training by polarize")
    epochs: int = option(20, "epochs of fine-tuning")
    imgsz: int = option(320, "image size in pixels")
    batch_size: int = option(16, "images per batch")
    workers: int = option(2, "most data loading processes")
    device: str = option("", "cpu, cuda device number such as 0, or mps")
    seed: int = option(0, "seed of all random numbers")
    folder: str = option(str(ROOT / "runs/frontier"), "folder of all results")

    def __post_init__(self) -> None:
        """Check the options before the first training."""
        if not self.base or not self.sparse:
            raise InputError("give --base (a trained checkpoint) and --sparse (from it, by train_sparity.py --sr)")
        if not all(0 < share < 1 for share in self.flops):
            raise InputError(f"--flops are shares of the base's operations in (0, 1), got {self.flops}")


class Frontier:
    """Prunes, fine-tunes and measures all cells, and keeps finished ones."""

    def __init__(self, options: FrontierOptions) -> None:
        """Open the folder and read the cells of an earlier run. Raises InputError if that had other options."""
        self.options = options
        self.folder = make_folder(options.folder).resolve()
        self.record = self.folder / "frontier.json"
        self.cells: dict[tuple[str, float], Cell] = {}
        names = ("base", "sparse", "data", "sparse_epochs", "epochs", "imgsz", "batch_size", "seed")
        self.identity = {name: getattr(options, name) for name in names}
        for name in ("base", "sparse"):
            file = check_file(getattr(options, name), ".pt")
            self.identity[f"{name} (content)"] = checkpoint_digest(file)
        if self.record.is_file():
            stored = json.loads(self.record.read_text(encoding="utf-8"))
            if stored["of"] != self.identity:
                raise InputError(f"{self.record} is of {stored['of']}: choose another --folder")
            cells = [Cell(**values) for values in stored["cells"]]
            self.cells = {(cell.method, cell.flops): cell for cell in cells}
        self._save()

    def run(self) -> list[Cell]:
        """Return all cells of the options, measured now or before."""
        keys = [(method, share) for share in self.options.flops for method in self.options.methods]
        for method, share in keys:
            if (method, share) not in self.cells:
                LOGGER.info(colorstr(f"\n{method} at {share:.0%} of the operations"))
                self.cells[method, share] = self._cell(method, share)
                self._save()
        return [self.cells[key] for key in keys]

    def _save(self) -> None:
        with atomic_path(self.record) as draft:
            cells = [asdict(cell) for cell in self.cells.values()]
            draft.write_text(json.dumps({"of": self.identity, "cells": cells}, indent=1) + "\n", encoding="utf-8")

    def _cell(self, method: str, share: float) -> Cell:
        name = f"{method}-{share:g}"
        cutters: dict[str, Callable[[float, str], Path]] = {
            "original": self._original,
            "torch-pruning": self._torch_pruning,
            "ours": self._ours,
            "ours+teacher": self._ours,
            "polarize+teacher": self._polarize,
        }
        try:
            pruned = cutters[method](share, name)
        except InputError as error:
            LOGGER.warning(f"{method} does not reach {share:.0%}: {error}")
            return Cell(method, share, problem=str(error))
        cell = Cell(method, share)
        network, _ = load_model(pruned)
        cell.parameters = count_parameters(network)
        cell.gflops = gflops(network, SIZE) or 0.0
        cell.pruned_map50, cell.pruned_map = self.accuracy(pruned)
        best = self._train(
            finetune.main,
            finetune.FinetuneOptions,
            f"{name}-finetuned",
            weights=str(pruned),
            epochs=self.options.epochs,
            teacher=self.options.base if method.endswith("+teacher") else "",
            recipe=recipe_after(cell.pruned_map50, self.base_accuracy[0]),
        )
        cell.map50, cell.map = self.accuracy(best)
        cell.milliseconds, cell.base_milliseconds = self._times(best)
        return cell

    # -- training and pruning ------------------------------------------------------------------------------------------

    def _train(self, command: Callable[[Any], Any], options_class: type, name: str, **keywords: Any) -> Path:
        """Train in the folder ``name``, unless that is finished; return the best checkpoint."""
        options = self.options
        weights = self.folder / name / "weights"
        best, last = weights / "best.pt", weights / "last.pt"
        if last.is_file() and not resumable(last):
            return best
        common = {
            "data": options.data,
            "imgsz": options.imgsz,
            "batch_size": options.batch_size,
            "workers": options.workers,
            "device": options.device,
            "seed": options.seed,
            "project": str(self.folder),
            "name": name,
            "exist_ok": True,
            "noplots": True,
            "resume": str(last) if last.is_file() else False,
        }
        if command(build(options_class, **common, **keywords)) is None:
            raise InputError(f"{name} was stopped before its end: run the same command to continue it")
        return best

    def _prune(self, weights: str, name: str, **keywords: Any) -> Path:
        """Prune with prune.py in the folder ``name``; return the pruned checkpoint."""
        options = self.options
        run = prune.run(
            weights=weights,
            data=options.data,
            imgsz=options.imgsz,
            device=options.device,
            batch_size=options.batch_size * 2,
            project=str(self.folder),
            name=name,
            exist_ok=True,
            noval=True,
            **keywords,
        )
        return run / "pruned_model.pt"

    # -- the methods: share of the operations -> pruned checkpoint -----------------------------------------------------

    def _ours(self, share: float, _: str) -> Path:
        name = f"ours-{share:g}"
        pruned = self.folder / name / "pruned_model.pt"
        if pruned.is_file():  # shared by the methods with and without teacher
            return pruned
        return self._prune(self.options.sparse, name, target_flops=f"{share}", round_to=ROUNDING)

    def _polarize(self, share: float, name: str) -> Path:
        target: dict[str, Any] = {"target_flops": f"{share}", "round_to": ROUNDING}
        sparse = self._train(
            train_sparity.main,
            train_sparity.SparseOptions,
            f"{name}-sparse",
            weights=self.options.base,
            teacher=self.options.base,
            penalty="polarize",
            epochs=self.options.sparse_epochs,
            **target,
        )
        return self._prune(str(sparse), name, **target)

    def _original(self, share: float, name: str) -> Path:
        """Prune the lowest percentage that keeps at most ``share`` of the operations."""
        model, _ = load_model(self.options.sparse)
        structure = Structure.of(model).select("seed")
        groups = structure.groups
        costs = CostModel(structure)
        scores = gamma_scores(model, groups)
        full = costs.of_plan(plan_by_percent(groups, scores, 0.0))["flops"]

        def kept(percent: float) -> float:
            return costs.of_plan(plan_by_percent(groups, scores, percent))["flops"] / full

        percent = lowest_that_fits(kept, share, highest=0.99)
        return self._prune(self.options.sparse, name, percent=percent, fold=False, reconstruct=0)

    def _torch_pruning(self, share: float, name: str) -> Path:
        """Prune by Torch-Pruning at the lowest global ratio that keeps at most ``share`` of the operations."""
        model, _ = load_model(self.options.sparse)
        full = gflops(model, SIZE) or 0.0

        def kept(pruned: DetectionModel) -> float:
            return (gflops(pruned, SIZE) or 0.0) / full

        # No bisection: the operations need not fall with the ratio, as layers that it would remove whole stay whole.
        previous, lowest = 0.0, 1.0
        for ratio in RATIOS:
            now = kept(prune_by_torch_pruning(model, ratio, self.options.imgsz))
            if now <= share:
                break
            previous, lowest = ratio, min(lowest, now)
        else:
            raise InputError(f"no ratio keeps less than {lowest:.0%} of the operations")
        for step in range(1, FINE_STEPS + 1):
            fine_ratio = previous + (ratio - previous) * step / FINE_STEPS
            pruned = prune_by_torch_pruning(model, fine_ratio, self.options.imgsz)
            if kept(pruned) <= share:
                break
        record_widths(pruned, measure_widths(pruned, model))
        path = make_folder(self.folder / name) / "pruned_model.pt"
        save_model(pruned, path, {})
        return path

    # -- measuring -----------------------------------------------------------------------------------------------------

    def accuracy(self, weights: str | Path) -> tuple[float, float]:
        """Return mAP50 and mAP50-95 of a checkpoint."""
        options = self.options
        results, _, _ = val.run(
            options.data,
            str(weights),
            imgsz=options.imgsz,
            batch_size=options.batch_size * 2,
            plots=False,
            workers=options.workers,
            device=options.device,
            save_dir=self.folder,
        )
        return results[2], results[3]

    @cached_property
    def base_accuracy(self) -> tuple[float, float]:
        """mAP50 and mAP50-95 of the base."""
        return self.accuracy(self.options.base)

    def _times(self, weights: Path) -> tuple[dict[str, float], dict[str, float]]:
        """Return ``time_in_turns`` of a separate process, so that no runtime leaves threads to later trainings."""
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(time_in_turns, str(weights), self.options.base, self.options.imgsz).result()


def time_in_turns(weights: str, base: str, image_size: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return milliseconds for one image by runtime of both checkpoints, timed in turns; missing runtimes left out."""
    networks = {"pruned": load_model(weights)[0], "base": load_model(base)[0]}
    times: dict[str, dict[str, float]] = {name: {} for name in networks}
    for runtime in RUNTIMES:
        try:
            calls = {name: prepare(network, image_size, runtime) for name, network in networks.items()}
        except InputError as error:
            LOGGER.warning(f"{error}: not timed")
            continue
        for name, milliseconds in time_calls(calls).items():
            times[name][runtime] = milliseconds
    return times["pruned"], times["base"]


def lowest_that_fits(kept: Callable[[float], float], share: float, highest: float) -> float:
    """Return the lowest removal in (0, ``highest``) after which ``kept`` of it is at most ``share``.

    Raises:
        InputError: ``highest`` keeps more.
    """
    if kept(highest) > share:
        raise InputError(
            f"removing {highest:.0%} of the channels of this method keeps {kept(highest):.0%} of the operations"
        )
    low, high = 0.0, highest
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if kept(middle) <= share:
            high = middle
        else:
            low = middle
    return high


def prune_by_torch_pruning(model: DetectionModel, ratio: float, image_size: int) -> DetectionModel:
    """Return a copy of ``model`` from which Torch-Pruning removed ``ratio`` of the channels by batch-norm scales."""
    try:
        import torch_pruning
    except ImportError as error:
        raise InputError("the method torch-pruning needs a package: pip install torch-pruning") from error
    copy: Any = deepcopy(model).requires_grad_(True)
    pruner = torch_pruning.pruner.BNScalePruner(
        copy,
        torch.zeros(1, 3, image_size, image_size),
        importance=torch_pruning.importance.BNScaleImportance(),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[*copy.model[-1].m],
        round_to=ROUNDING,
    )
    pruner.step()
    return copy


def main(options: FrontierOptions) -> Path:
    """Measure everything, write frontier.json, frontier.md and frontier.png, and return their folder."""
    show_arguments("frontier", options)
    frontier = Frontier(options)
    cells = frontier.run()
    base = frontier.base_accuracy
    text = as_table(cells, base)
    with atomic_path(frontier.folder / "frontier.md") as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    operations = gflops(load_model(options.base)[0], SIZE) or 0.0
    draw(cells, base, operations, frontier.folder / "frontier.png")
    LOGGER.info(f"\n{text}\n\nResults saved to {colorstr('bold', str(frontier.folder))}: frontier.md, .json and .png")
    return frontier.folder


if __name__ == "__main__":
    run_command(lambda: main(parse(FrontierOptions, "Accuracy against size of several methods of pruning.")))
