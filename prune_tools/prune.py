#!/usr/bin/env python3
"""Prune a sparsely trained YOLOv5: remove the channels with the smallest batch-norm gammas.

    python prune_tools/prune.py --weights runs/train/exp4/weights/best.pt --percent 0.4 \\
        --cfg models/yolov5n_mask.yaml --data data/mask.yaml --batch-size 64 --imgsz 320
    python prune_tools/prune.py --weights runs/train/exp4/weights/best.pt --target-flops 2.1G --data data/mask.yaml

Writes pruned_model.pt, pruned_model.yaml, orign_model.pt (full width, removed channels zero) and the report as
report.html, report.json and report.txt.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools.opening import open_inputs, open_loader, repair_batches, val_options
from prune_tools.options import PruneOptions
from prune_tools.planning.options import make_plan
from prune_tools.report.table import as_text
from prune_tools.steps import Pruning
from prune_tools.tuning.recipes import DEFAULT, recipe_after
from utils.commands.cli import run_command, show_arguments
from utils.commands.next_steps import following, log_next
from utils.commands.options import build, command_line, parse, to_dict
from utils.errors import InputError
from utils.log import LOGGER, colorstr, warnings_only
from utils.storage.files import atomic_path
from utils.storage.folder_lock import claimed_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.yolo import DetectionModel
    from prune_tools.report.report import Report
    from prune_tools.report.table import Row

TIMING_SECONDS = 0.5  # for each network


def main(options: PruneOptions) -> Path:
    """Prune, check, repair, validate, save and report; returns the run folder."""
    from prune_tools.channels.tracing import trace_model
    from prune_tools.survey.record import find_surveys, surveys_of

    show_arguments("prune", options)
    place = Path(options.project) / options.name
    surveys = find_surveys(options, place)
    model, checkpoint, data = open_inputs(options)
    surveys = surveys_of(surveys, options.weights)
    trace = trace_model(model)
    pruning = Pruning(model, trace, *make_plan(model, trace, options, options.data, options.imgsz))
    with claimed_folder(place, options.exist_ok) as folder:
        return _prune_into(folder, options, pruning, checkpoint, data, surveys)


def _prune_into(
    folder: Path, options: PruneOptions, pruning: Pruning, checkpoint: dict[str, Any], data: dict[str, Any],
    surveys: dict[str, dict[str, Any]],
) -> Path:  # fmt: skip
    from prune_tools.report.report import layer_table
    from prune_tools.yolo_pruned import save_pruned

    model = pruning.full
    loader = open_loader(options, data, model)
    images = next(iter(loader))[0].to(next(model.parameters()).device).float() / 255

    pruned, masked = pruning.cut(images)
    widths = layer_table(model, pruned)
    LOGGER.info(f"\n{widths}\n")
    pruning.repair(pruned, options, repair_batches(options, data, model))
    result = folder / "pruned_model.pt"
    networks = {"before": (model, options.weights[0]), "pruned": (pruned, str(result))}
    rows = measure(networks, options, data, loader, folder)
    summary = as_text(rows)
    if not options.noval:
        pruning.notes.append(f"ms / image: measured in {options.runtime}")
    LOGGER.info(f"\n{summary}\n")
    save_pruned(folder, pruned, masked, checkpoint)
    with atomic_path(folder / "report.txt") as draft:
        draft.write_text(f"{options.weights[0]}\n{pruning.plan.summary()}\n\n{widths}\n\n{summary}\n", encoding="utf-8")
    report_of(pruning, pruned, rows, options, surveys, data).save(folder)
    files = "pruned_model.pt, pruned_model.yaml, orign_model.pt, report.html, report.json, report.txt"
    LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}: {files}")
    log_next(next_step(result, options, checkpoint, rows, pruned=pruning.removes_any()))
    return folder


def next_step(
    result: Path, options: PruneOptions, checkpoint: dict[str, Any], rows: Sequence[Row], pruned: bool = True
) -> str:
    """The command of fine-tuning: what sparse training started from teaches, a hurt model learns at a higher rate.

    Where nothing was removed there is nothing to fine-tune: then the command that finds out how much may be.
    """
    from prune_tools.finetune import FinetuneOptions
    from prune_tools.sweep import SweepOptions

    if not pruned:
        return following("prune_tools/sweep.py", SweepOptions, options, weights=options.weights)
    before, after = [row.map50 for row in rows]
    recipe = DEFAULT if before is None or after is None else recipe_after(after, before)
    chosen: dict[str, Any] = {} if recipe == DEFAULT else {"recipe": recipe}
    return following(
        "prune_tools/finetune.py", FinetuneOptions, options, weights=result,
        teacher=find_teacher(checkpoint, options.weights[0]), **chosen,
    )  # fmt: skip


def find_teacher(checkpoint: dict[str, Any], weights: str) -> str:
    """The model that taught the one of ``weights``, or that it was trained from, if it can teach; else ``weights``.

    It can if its head fits and it is no narrower: not the released weights of other classes, and not an earlier cut.
    """
    from models.loading import deployed, load_checkpoint
    from prune_tools.tuning.distillation import check_heads
    from utils.model_info import count_parameters

    recorded = checkpoint.get("opt")
    recorded = recorded if isinstance(recorded, dict) else {}
    student = deployed(checkpoint)
    for candidate in (recorded.get("teacher"), recorded.get("weights")):
        with suppress(InputError, OSError):
            if candidate and Path(str(candidate)).is_file():
                teacher = load_checkpoint(str(candidate))["model"]
                check_heads(teacher, student, str(candidate))
                if count_parameters(teacher) >= count_parameters(student):
                    return str(candidate)
    return weights


def measure(
    networks: dict[str, tuple[DetectionModel, str]],
    options: PruneOptions,
    data: dict[str, Any],
    loader: Any,
    folder: Path,
) -> list[Row]:
    """Validate and time networks (by step, with the name of their file) if wanted; the rows of the table."""
    import val
    from prune_tools.planning.latency import prepare, time_calls
    from prune_tools.report.table import row_of

    if options.noval:
        return [row_of(step, network, [None] * 4, None, file) for step, (network, file) in networks.items()]
    with warnings_only():
        calls = {step: prepare(network, options.imgsz, options.runtime) for step, (network, _) in networks.items()}
    times = time_calls(calls, TIMING_SECONDS)
    rows = []
    for step, (network, file) in networks.items():
        LOGGER.info(colorstr(f"Validating: {step}"))
        copy = deepcopy(network)  # validation in FP16 rounds the weights
        metrics, _, _ = val.run(
            data, model=copy, dataloader=loader, save_dir=folder, plots=False, **val_options(options)
        )
        rows.append(row_of(step, network, metrics, times[step], file))
    return rows


def report_of(
    pruning: Pruning, pruned: DetectionModel, rows: list[Row], options: PruneOptions,
    surveys: dict[str, dict[str, Any]], data: dict[str, Any],
) -> Report:  # fmt: skip
    """The report of a pruning whose model has been saved."""
    import torch

    from prune_tools.planning.scores import gamma_scores
    from prune_tools.report.pictures import gamma_histogram, layer_widths
    from prune_tools.report.report import Report
    from utils.dataset.labels import find_images

    plan, gammas = pruning.plan, gamma_scores(pruning.full, pruning.groups)
    parts = {
        "stays": [gammas[group.name][plan.kept[group.name]] for group in pruning.groups],
        "goes": [gammas[group.name][plan.removed(group)] for group in pruning.groups],
    }
    report = Report(
        title=f"Pruning of {Path(options.weights[0]).name}",
        rows=rows,
        widths=(layer_widths(pruning.full), layer_widths(pruned)),
        gammas=gamma_histogram({name: torch.cat(values) for name, values in parts.items()}),
        commands=[command_line("prune_tools/prune.py", PruneOptions, to_dict(options))],
        notes=[plan.summary(), *filter(None, [plan.warning]), *pruning.notes],
        surveys=surveys,
    )
    if options.noval:
        return report
    checkpoints = {row.step: row.weights for row in rows}
    report.show_detections(checkpoints, find_images(data["val"]), options.imgsz, options.device)
    return report


def run(**keywords: Any) -> Path:
    """Prune from Python, the flags as keywords; returns the run folder."""
    return main(build(PruneOptions, **keywords))


if __name__ == "__main__":
    run_command(lambda: main(parse(PruneOptions, "Prune a sparsely trained YOLOv5 by its batch-norm gammas.")))
