"""One run of prune.py: open, plan, prune, measure, save and report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import val
from models.exporters.options import ExportOptions
from models.loading import deployed, load_checkpoint
from models.yolo import DetectionModel
from prune_tools import rounding
from prune_tools.channels.structure import Structure
from prune_tools.make_plan import make_plan
from prune_tools.opening import Inputs, open_inputs
from prune_tools.options import PruneOptions
from prune_tools.planning import latency
from prune_tools.planning.plan import Plan, keep_all
from prune_tools.planning.scores import gamma_scores
from prune_tools.pruning import Pruned, prune
from prune_tools.report.pictures import gamma_histogram, layer_widths
from prune_tools.report.report import Report, layer_table
from prune_tools.report.table import Row, as_text, row_of
from prune_tools.survey.options import SweepOptions
from prune_tools.survey.record import Surveys, find_surveys, surveys_of
from prune_tools.tuning.distillation import matching_levels
from prune_tools.tuning.options import FinetuneOptions
from prune_tools.tuning.recipes import DEFAULT, recipe_after
from prune_tools.units.choice import Chosen, choose_units
from prune_tools.yolo_pruned import save_pruned
from utils.commands.next_steps import following, log_next
from utils.commands.options import command_line, to_dict
from utils.dataset.labels import find_images
from utils.errors import InputError
from utils.log import LOGGER, colorstr, warnings_only
from utils.model_info import count_parameters
from utils.storage.files import atomic_path
from utils.storage.folder_lock import claimed_folder


def prune_run(options: PruneOptions) -> Path:
    """Prune by ``options``; returns the run folder."""
    run_folder = Path(options.project) / options.name
    surveys = find_surveys(options, run_folder)
    inputs = rounding.of_pruning(open_inputs(options))
    surveys = surveys_of(surveys, inputs.options.weights)
    chosen = choose_units(inputs)
    structure, plan = plan_channels(inputs, chosen)
    with claimed_folder(run_folder, options.exist_ok) as folder:
        return _prune_into(folder, inputs, chosen, structure, plan, surveys)


def plan_channels(inputs: Inputs[PruneOptions], chosen: Chosen) -> tuple[Structure, Plan]:
    """The channels to remove from the network that is left of the units, within the budget of the whole one."""
    options = replace(inputs.options, skip=chosen.skip)
    if "channels" not in options.units:
        structure = Structure.of(chosen.model).protect(options.skip).select(options.scope)
        return structure, keep_all(structure.groups, "Channels are left whole, as --units names other units only")
    whole = inputs.model if chosen.removal else None
    return make_plan(chosen.model, options, options.data, options.imgsz, chosen.target, whole)


def _prune_into(
    folder: Path, inputs: Inputs[PruneOptions], chosen: Chosen, structure: Structure, plan: Plan, surveys: Surveys
) -> Path:
    options, model = inputs.options, inputs.model
    loader = inputs.open_loader()
    images = next(iter(loader))[0].to(next(model.parameters()).device).float() / 255
    pruned = prune(structure, plan, options, inputs.repair_batches(), images)
    pruned.notes[:0] = chosen.notes
    widths = layer_table(structure.model, pruned.model)
    LOGGER.info(f"\n{widths}\n")
    result = folder / "pruned_model.pt"
    networks = {"before": (model, options.weights[0]), "pruned": (pruned.model, str(result))}
    rows = measure(networks, inputs, loader, folder)
    summary = as_text(rows)
    if not options.noval:
        pruned.notes.append(f"ms / image: measured in {options.runtime}")
    LOGGER.info(f"\n{summary}\n")
    assert pruned.masked is not None
    save_pruned(folder, pruned.model, pruned.masked, inputs.checkpoint)
    with atomic_path(folder / "report.txt") as draft:
        lines = [options.weights[0], *chosen.notes, plan.summary(), "", widths, "", summary, ""]
        draft.write_text("\n".join(lines), encoding="utf-8")
    report = report_of(structure, plan, pruned, rows, options)
    report.surveys = surveys
    if not options.noval:
        checkpoints = {row.step: row.weights for row in rows}
        report.show_detections(checkpoints, find_images(inputs.data["val"]), options.imgsz, options.device)
    report.save(folder)
    files = "pruned_model.pt, pruned_model.yaml, orign_model.pt, report.html, report.json, report.txt"
    LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}: {files}")
    pruned_any = bool(chosen.removal) or plan.removes_any(structure.groups)
    log_next(*next_steps(result, options, inputs.checkpoint, rows, inputs.recorded(), pruned_any))
    return folder


def next_steps(
    result: Path, options: PruneOptions, checkpoint: dict[str, Any], rows: Sequence[Row],
    recorded: Collection[str] = (), pruned: bool = True,
) -> list[str]:  # fmt: skip
    """The command of fine-tuning, with a teacher, and with a higher rate for a model that has lost accuracy.

    If nothing was removed, there is nothing to fine-tune: then the command that finds out how much may be.
    """
    if not pruned:
        return [following("prune_tools/sweep.py", SweepOptions, options, recorded=recorded, weights=options.weights)]
    before, after = [row.map50 for row in rows]
    recipe = DEFAULT if before is None or after is None else recipe_after(after, before)
    schedule: dict[str, Any] = {} if recipe == DEFAULT else {"recipe": recipe}
    teacher = find_teacher(checkpoint, options.weights[0])
    changes = {"weights": result, "teacher": teacher, **schedule}
    return [following("prune_tools/finetune.py", FinetuneOptions, options, recorded=recorded, **changes)]


def find_teacher(checkpoint: dict[str, Any], weights: str) -> str:
    """The teacher of the model of ``weights``, or the model it was trained from, if it can teach; else ``weights``.

    It can if its head has the same outputs and it is not narrower: released weights of other classes cannot, and an
    earlier cut cannot.
    """
    recorded = checkpoint.get("opt")
    recorded = recorded if isinstance(recorded, dict) else {}
    student = deployed(checkpoint)
    for candidate in (recorded.get("teacher"), recorded.get("weights")):
        with suppress(InputError, OSError):
            if candidate and Path(str(candidate)).is_file():
                teacher = load_checkpoint(str(candidate))["model"]
                matching_levels(teacher, student, str(candidate))
                if count_parameters(teacher) >= count_parameters(student):
                    return str(candidate)
    return weights


def measure(
    networks: Mapping[str, tuple[DetectionModel, str]], inputs: Inputs[PruneOptions], loader: Any, folder: Path
) -> list[Row]:
    """Validate and time networks, unless --noval; returns the rows of the table.

    Args:
        networks: by step, the network and the name of its file.
        inputs: options and data of the validation.
        loader: the validation images.
        folder: the run folder.
    """
    options = inputs.options
    if options.noval:
        return [row_of(step, network, [None] * 4, None, file) for step, (network, file) in networks.items()]
    with warnings_only():
        calls = {
            step: latency.prepare(network, options.imgsz, options.runtime) for step, (network, _) in networks.items()
        }
    times = latency.time_calls(calls, latency.SHORT_SECONDS)
    rows = []
    for step, (network, file) in networks.items():
        LOGGER.info(colorstr(f"Validating: {step}"))
        copy = deepcopy(network)  # validation in FP16 rounds the weights
        metrics, _, _ = val.run(
            inputs.data, model=copy, dataloader=loader, save_dir=folder, plots=False, **inputs.val_options()
        )
        rows.append(row_of(step, network, metrics, times[step], file))
    return rows


def report_of(structure: Structure, plan: Plan, pruned: Pruned, rows: Sequence[Row], options: PruneOptions) -> Report:
    """The report of a pruning, without surveys and detections."""
    scores = gamma_scores(structure.model, structure.groups)
    kept = [scores[group.name][plan.kept[group.name]] for group in structure.groups]
    removed = [scores[group.name][plan.removed(group)] for group in structure.groups]
    return Report(
        title=f"Pruning of {Path(options.weights[0]).name}",
        rows=rows,
        widths=(layer_widths(structure.model), layer_widths(pruned.model)),
        gammas=gamma_histogram({"kept": torch.cat(kept), "removed": torch.cat(removed)}),
        commands=[command_line("prune_tools/prune.py", PruneOptions, to_dict(options))],
        export=following("export.py", ExportOptions, options, weights=rows[-1].weights, include=["onnx"]),
        notes=[plan.summary(), *filter(None, [plan.warning]), *pruned.notes],
    )
