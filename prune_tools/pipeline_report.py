"""The report of a pipeline: its models, the commands of its steps, the gammas before and after sparse training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from models.exporters.options import ExportOptions
from models.loading import load_checkpoint
from prune_tools.channels.structure import Structure
from prune_tools.pipeline_options import UNPRUNED, PipelineOptions
from prune_tools.planning.scores import gamma_scores
from prune_tools.report.pictures import gamma_histogram, layer_widths
from prune_tools.report.report import Report
from prune_tools.report.table import Row, best_model
from prune_tools.sparsity.options import SparseOptions
from prune_tools.tuning.options import FinetuneOptions
from utils.commands.next_steps import following
from utils.commands.options import command_line, to_dict
from utils.storage.files import read_yaml_mapping
from utils.training.options import TrainOptions


def report_of(
    options: PipelineOptions,
    folders: Mapping[str, Path],
    checkpoints: Mapping[str, Path],
    rows: Sequence[Row],
    surveys: dict[str, dict[str, Any]],
) -> Report:
    """The report of a finished run, without detections; ``folders`` and ``checkpoints`` are by step."""
    unpruned = [step for step in UNPRUNED if step in checkpoints]
    whole = "units" if "units" in checkpoints else unpruned[0]  # the network with the rows of the pruned one
    models = {step: load_checkpoint(checkpoints[step])["model"].float() for step in {*unpruned, whole, "pruned"}}
    gammas = {}
    for step in unpruned:  # in a later round the sparse model is narrower
        groups = Structure.of(models[step]).protect(options.skip).select(options.of_penalty()["scope"]).groups
        gammas[step] = torch.cat(list(gamma_scores(models[step], groups).values()))
    threshold = None  # a budget has none: channels are also removed by their cost
    if options.percent is not None:
        percent = options.of_round(options.rounds).percent or 0.0
        threshold = float(gammas["sparse"].sort().values[int(len(gammas["sparse"]) * percent)])
    return Report(
        title=f"{Path(options.weights or options.cfg).stem}, pruned with {options.goal()}",
        rows=rows,
        widths=(layer_widths(models[whole]), layer_widths(models["pruned"])),
        gammas=gamma_histogram(gammas, threshold),
        commands=[
            command_line("prune_tools/pipeline.py", PipelineOptions, to_dict(options)),
            *(command for step, folder in folders.items() for command in _commands(step, folder, options.hyp)),
        ],
        export=following("export.py", ExportOptions, options, weights=best_model(rows).weights, include=["onnx"]),
        notes=[
            note
            for step, folder in folders.items()
            if step.endswith(("pruned", "units"))
            for note in _pruning(folder)["notes"]
        ],
        surveys=surveys,
    )


def _commands(step: str, folder: Path, hyp: str) -> list[str]:
    """The commands of a step of any round."""
    trainings = {
        "base": ("train.py", TrainOptions),
        "sparse": ("prune_tools/train_sparity.py", SparseOptions),
        "finetuned": ("prune_tools/finetune.py", FinetuneOptions),
    }
    work = step.rpartition("-")[2]
    return [_training(*trainings[work], folder, hyp)] if work in trainings else _pruning(folder)["commands"]


def _training(script: str, options_class: type, folder: Path, hyp: str) -> str:
    """The command of a training, from its recorded options, in which ``hyp`` replaces the file's content."""
    values = read_yaml_mapping(folder / "opt.yaml") | {"resume": None, "exist_ok": None, "hyp": hyp or None}
    return command_line(script, options_class, values)


def _pruning(folder: Path) -> dict[str, Any]:
    """The figures of the pruning step; a run made by an earlier version has none."""
    file = folder / "report.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"commands": [], "notes": []}
