#!/usr/bin/env python3
"""Accuracy against size: this project's pruning beside other methods, from the same trained model.

    python benchmarks/frontier.py --data data/mask_demo.yaml --base base.pt --sparse sparse.pt --imgsz 320

Each method brings the network to the same numbers of operations and is fine-tuned for the same epochs by one rule:
recipe gentle, or short where the pruned model has lost more than a twentieth of the base's mAP50. ``--base`` is the
trained model (train.py), ``--sparse`` one with an L1 penalty (train_sparity.py --sr). The methods:

* original: the channels outside shortcuts by their gammas, nothing repaired: what the original tools do
* torch-pruning: batch-norm scale importance, global, coupled channels (pip install torch-pruning)
* ours: coupled channels too, constants folded, layers re-fitted
* ours+teacher: the same cut, fine-tuned with the base model as teacher
* polarize+teacher: sparse training of its own for each target, from the base, then as ours+teacher: what pipeline.py
  does

A cell that is measured is kept in ``frontier.json``; the same command goes on where it stopped, in a training at the
epoch that was under way.
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

from benchmarks.frontier_table import RUNTIMES, SIZE, Cell, as_table, draw
from prune_tools.survey.record import checkpoint_digest
from prune_tools.tuning.recipes import recipe_after
from utils.checks import check_file
from utils.commands.cli import run_command, show_arguments
from utils.commands.options import build, option, parse
from utils.errors import InputError
from utils.log import LOGGER, colorstr
from utils.storage.files import ROOT, atomic_path, make_folder

METHODS = ("original", "torch-pruning", "ours", "ours+teacher", "polarize+teacher")
ROUNDING = 8  # channels, of all methods but the original, which has none
BISECTIONS = 12  # of a share of channels, until the operations fit
RATIOS = [step / 50 for step in range(1, 50)]  # of Torch-Pruning
FINE_STEPS = 20  # from one of them to the next


@dataclass
class FrontierOptions:
    """Options of the benchmark."""

    base: str = option("", "trained checkpoint")
    sparse: str = option("", "checkpoint of sparse training from the base with an L1 penalty")
    data: str = option(str(ROOT / "data/mask_demo.yaml"), "data set YAML")
    flops: list[float] = option([0.75, 0.5, 0.3], "shares of the base's operations that remain", nargs="+")
    methods: list[str] = option(list(METHODS), "methods to compare", nargs="+", choices=METHODS)
    sparse_epochs: int = option(20, "epochs of sparse training by polarize")
    epochs: int = option(20, "epochs of fine-tuning")
    imgsz: int = option(320, "image size in pixels")
    batch_size: int = option(16, "images per batch")
    workers: int = option(2, "most data loading processes")
    device: str = option("", "cpu, cuda device number such as 0, or mps")
    seed: int = option(0, "seed of all random numbers")
    folder: str = option(str(ROOT / "runs/frontier"), "where everything goes")

    def __post_init__(self) -> None:
        """Refuse what cannot be measured before the first training."""
        if not self.base or not self.sparse:
            raise InputError("give --base (a trained checkpoint) and --sparse (from it, by train_sparity.py --sr)")
        if not all(0 < share < 1 for share in self.flops):
            raise InputError(f"--flops are shares of the base's operations in (0, 1), got {self.flops}")


# -- the methods: a share of the operations -> a pruned checkpoint -------------------------------------------------


class Frontier:
    """Makes, fine-tunes and measures all cells, and keeps what is done."""

    def __init__(self, options: FrontierOptions) -> None:
        """Open the folder; cells of an earlier run with the same models are taken over."""
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
        """All cells that were asked for, measured now or before."""
        wanted = [(method, share) for share in self.options.flops for method in self.options.methods]
        for method, share in wanted:
            if (method, share) not in self.cells:
                LOGGER.info(colorstr(f"\n{method} at {share:.0%} of the operations"))
                self.cells[method, share] = self._cell(method, share)
                self._save()
        return [self.cells[key] for key in wanted]

    def _save(self) -> None:
        with atomic_path(self.record) as draft:
            cells = [asdict(cell) for cell in self.cells.values()]
            draft.write_text(json.dumps({"of": self.identity, "cells": cells}, indent=1) + "\n", encoding="utf-8")

    def _cell(self, method: str, share: float) -> Cell:
        from prune_tools import finetune
        from prune_tools.opening import load_model
        from utils.model_info import count_parameters, gflops

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
        cell.parameters, cell.gflops = count_parameters(network), gflops(network, SIZE) or 0.0
        cell.pruned_map50, cell.pruned_map = self.accuracy(pruned)
        keywords = {"weights": str(pruned), "teacher": self.options.base if method.endswith("+teacher") else ""}
        keywords["recipe"] = recipe_after(cell.pruned_map50, self.base_accuracy[0])
        run = f"{name}-finetuned"
        best = self._train(finetune.main, finetune.FinetuneOptions, run, epochs=self.options.epochs, **keywords)
        cell.map50, cell.map = self.accuracy(best)
        cell.milliseconds, cell.base_milliseconds = self._times(best)
        return cell

    def _train(self, command: Any, options_class: type, name: str, **keywords: Any) -> Path:
        """One training in the folder ``name``, unless it is finished; returns its best checkpoint."""
        from prune_tools.pipeline_run import resumable

        options, best, last = self.options, *(self.folder / name / f"weights/{kind}.pt" for kind in ("best", "last"))
        if last.is_file() and not resumable(last):
            return best
        common = {
            "data": options.data, "imgsz": options.imgsz, "batch_size": options.batch_size, "workers": options.workers,
            "device": options.device, "seed": options.seed, "project": str(self.folder), "name": name,
            "exist_ok": True, "noplots": True, "resume": str(last) if last.is_file() else False,
        }  # fmt: skip
        if command(build(options_class, **common, **keywords)) is None:
            raise InputError(f"{name} was stopped before its end: run the same command to continue it")
        return best

    def _prune(self, weights: str, name: str, **chosen: Any) -> Path:
        from prune_tools import prune

        options = self.options
        built = build(
            prune.PruneOptions, weights=[weights], data=options.data, imgsz=options.imgsz, device=options.device,
            batch_size=options.batch_size * 2, project=str(self.folder), name=name, exist_ok=True, noval=True, **chosen,
        )  # fmt: skip
        return prune.main(built) / "pruned_model.pt"

    def _ours(self, share: float, _: str) -> Path:
        name = f"ours-{share:g}"
        made = self.folder / name / "pruned_model.pt"  # both schedules of fine-tuning start from one cut
        if made.is_file():
            return made
        return self._prune(self.options.sparse, name, target_flops=f"{share}", round_to=ROUNDING)

    def _polarize(self, share: float, name: str) -> Path:
        from prune_tools import train_sparity

        goal = {"target_flops": f"{share}", "round_to": ROUNDING}
        start = {"weights": self.options.base, "teacher": self.options.base, "penalty": "polarize"}
        keywords = {**start, **goal, "epochs": self.options.sparse_epochs}
        sparse = self._train(train_sparity.main, train_sparity.SparseOptions, f"{name}-sparse", **keywords)
        return self._prune(str(sparse), name, **goal)

    def _original(self, share: float, name: str) -> Path:
        """The least percentage that leaves no more than ``share`` of the operations; raises InputError if none does."""
        from prune_tools.channels.structure import Structure
        from prune_tools.opening import load_model
        from prune_tools.planning.costs import CostModel
        from prune_tools.planning.plan import plan_by_percent
        from prune_tools.planning.scores import gamma_scores

        model, _ = load_model(self.options.sparse)
        structure = Structure.of(model).select("seed")
        groups = structure.groups
        costs, scores = CostModel(structure), gamma_scores(model, groups)

        def left(percent: float) -> float:
            return costs.of_plan(plan_by_percent(groups, scores, percent))["flops"] / whole

        whole = costs.of_plan(plan_by_percent(groups, scores, 0.0))["flops"]
        percent = least_that_fits(left, share, most=0.99)
        return self._prune(self.options.sparse, name, percent=percent, fold=False, reconstruct=0)

    def _torch_pruning(self, share: float, name: str) -> Path:
        """Pruned by Torch-Pruning, at the least global ratio that leaves no more than ``share`` of the operations."""
        from models.widths import measure_widths
        from prune_tools.opening import load_model
        from prune_tools.yolo_pruned import record_widths, save_model
        from utils.model_info import gflops

        model, _ = load_model(self.options.sparse)
        whole = gflops(model, SIZE) or 0.0
        ratio, least = 0.0, 1.0
        for coarse in RATIOS:  # one after the other: layers that a high ratio would remove as a whole stay whole
            left = (gflops(prune_by_torch_pruning(model, coarse, self.options.imgsz), SIZE) or 0.0) / whole
            if left <= share:
                break
            ratio, least = coarse, min(least, left)
        else:
            raise InputError(f"no ratio leaves less than {least:.0%} of the operations")
        for step in range(1, FINE_STEPS + 1):
            fine = ratio + (coarse - ratio) * step / FINE_STEPS
            pruned = prune_by_torch_pruning(model, fine, self.options.imgsz)
            if (gflops(pruned, SIZE) or 0.0) / whole <= share:
                break
        record_widths(pruned, measure_widths(pruned, model))
        path = make_folder(self.folder / name) / "pruned_model.pt"
        save_model(pruned, path, {})
        return path

    # -- measuring -------------------------------------------------------------------------------------------------

    def accuracy(self, weights: str | Path) -> tuple[float, float]:
        """mAP50 and mAP50-95 of a checkpoint."""
        import val

        options = self.options
        results, _, _ = val.run(
            options.data, str(weights), imgsz=options.imgsz, batch_size=options.batch_size * 2, plots=False,
            workers=options.workers, device=options.device, save_dir=self.folder,
        )  # fmt: skip
        return results[2], results[3]

    @cached_property
    def base_accuracy(self) -> tuple[float, float]:
        """mAP50 and mAP50-95 of the base."""
        return self.accuracy(self.options.base)

    def _times(self, weights: Path) -> tuple[dict[str, float], dict[str, float]]:
        """Milliseconds for one image by runtime, and those of the base in turns with it; missing runtimes left out.

        In a process of its own, so that no runtime leaves threads to the trainings that follow.
        """
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(time_in_turns, str(weights), self.options.base, self.options.imgsz).result()


def time_in_turns(weights: str, base: str, image_size: int) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of both checkpoints for one image by runtime, in turns; runtimes that are missing are left out."""
    from prune_tools.opening import load_model
    from prune_tools.planning.latency import prepare, time_calls

    networks = {name: load_model(file)[0] for name, file in (("pruned", weights), ("base", base))}
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


def least_that_fits(left: Callable[[float], float], share: float, most: float) -> float:
    """The least removal, in (0, ``most``), after which ``left`` of it is at most ``share``.

    Raises:
        InputError: not even ``most`` suffices; says what it leaves.
    """
    least = left(most)
    if least > share:
        raise InputError(f"removing {most:.0%} of the channels it may touch leaves {least:.0%} of the operations")
    below, above = 0.0, most
    for _ in range(BISECTIONS):
        middle = (below + above) / 2
        below, above = (below, middle) if left(middle) <= share else (middle, above)
    return above


def prune_by_torch_pruning(model: Any, ratio: float, image_size: int) -> Any:
    """A copy of ``model`` that Torch-Pruning has pruned to ``ratio`` of its channels by their batch-norm scales."""
    import torch

    try:
        import torch_pruning
    except ImportError as error:
        raise InputError("the method torch-pruning needs its package: pip install torch-pruning") from error
    copy = deepcopy(model).requires_grad_(True)
    pruner = torch_pruning.pruner.BNScalePruner(
        copy, torch.zeros(1, 3, image_size, image_size), importance=torch_pruning.importance.BNScaleImportance(),
        global_pruning=True, pruning_ratio=ratio, ignored_layers=[*copy.model[-1].m], round_to=ROUNDING,
    )  # fmt: skip
    pruner.step()
    return copy


def main(options: FrontierOptions) -> Path:
    """Measure everything, write frontier.json, frontier.md and frontier.png; returns the folder."""
    from prune_tools.opening import load_model
    from utils.model_info import gflops

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
