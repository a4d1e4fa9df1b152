"""Records of a pipeline by the services of ``--logger``, beside its trainings: prunings, and the comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.loading import load_checkpoint
from prune_tools.options import PruneOptions
from prune_tools.pipeline_options import PipelineOptions
from prune_tools.report.table import Row
from utils.loggers import GAMMAS
from utils.storage.files import make_folder
from utils.tracking.recording import Trackers, configuration, recorded

STEPS_TABLE = "steps"
PICTURES = ("table.png", "gammas.png", "widths.png", "detections.jpg")
FILES = ("report.html", "report.json", "table.csv")
TAGS = {
    "precision": "metrics/precision",
    "recall": "metrics/recall",
    "map50": "metrics/mAP_0.5",
    "map": "metrics/mAP_0.5:0.95",
    "parameters": "cost/parameters",
    "gflops": "cost/GFLOPs",
    "milliseconds": "cost/milliseconds",
}  # column of the table -> tag


def record_pruning(loggers: Sequence[str], options: PruneOptions, folder: Path) -> None:
    """Record the finished pruning in ``folder`` as a run: its figures, gammas and files."""
    if not loggers:
        return
    steps = json.loads((folder / "report.json").read_text(encoding="utf-8"))["steps"]
    with recorded(loggers, folder, configuration(options, {})) as trackers:
        after = steps[-1]
        trackers.each(
            methodcaller("scalars", {tag: after[name] for name, tag in TAGS.items() if after[name] is not None}, 0)
        )
        model = load_checkpoint(folder / "pruned_model.pt")["model"]
        gammas = torch.cat([module.weight for module in model.modules() if isinstance(module, nn.BatchNorm2d)])
        trackers.each(methodcaller("histogram", GAMMAS, gammas.detach().abs().float().numpy(), 0))
        _record_table(trackers, steps)
        for name in ("pruned_model.pt", "report.html"):
            trackers.each(methodcaller("artifact", folder / name))


def record_comparison(options: PipelineOptions, rows: Sequence[Row], folder: Path) -> None:
    """Record the table of the steps, the pictures and the report of the pipeline in ``folder`` as a run."""
    if not options.logger:
        return
    with recorded(options.logger, make_folder(folder / "comparison"), configuration(options, {})) as trackers:
        _record_table(trackers, [asdict(row) for row in rows])
        for name in PICTURES:
            if (folder / name).is_file():
                trackers.each(methodcaller("image", Path(name).stem, folder / name, 0))
        for name in FILES:
            trackers.each(methodcaller("artifact", folder / name))


def _record_table(trackers: Trackers, steps: Sequence[Mapping[str, Any]]) -> None:
    """Record the models of ``steps``, one in a row."""
    trackers.each(methodcaller("table", STEPS_TABLE, list(steps[0]), [list(step.values()) for step in steps]))
