"""Runs at Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from utils.commands.packages import require
from utils.tracking.tracker import RunLabel, Tracker

STEP = "epoch"  # the horizontal axis: W&B's own step cannot go back, as that of a resumed run does


class WandbTracker(Tracker):
    """Records by ``wandb``; WANDB_PROJECT, WANDB_MODE and its other variables count."""

    def __init__(self, label: RunLabel, run_id: str = "") -> None:
        """Start or continue a run."""
        self._wandb = require("wandb", "--logger wandb", listed="")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or label.project,
            group=label.group or None,
            name=label.name,
            dir=str(label.folder),
            id=run_id or None,
            resume="allow" if run_id else None,
            reinit="create_new",  # the caller may have a run of its own
        )
        self.run_id = self._run.id
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)

    def config(self, values: Mapping[str, Any]) -> None:
        """Record options and hyperparameters."""
        self._run.config.update(dict(values), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record figures by tag."""
        self._run.log({**values, STEP: step})

    def histogram(self, tag: str, values: NDArray, step: int) -> None:
        """Record the distribution of ``values`` (n,)."""
        self._run.log({tag: self._wandb.Histogram(values), STEP: step})

    def image(self, tag: str, file: Path, step: int) -> None:
        """Record a picture."""
        self._run.log({tag: self._wandb.Image(str(file)), STEP: step})

    def table(self, tag: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table."""
        self._run.log({tag: self._wandb.Table(columns=list(header), data=[list(row) for row in rows])})

    def artifact(self, file: Path) -> None:
        """Keep a copy of a file, under a name that is the run's own."""
        content = "model" if file.suffix == ".pt" else "report"
        artifact = self._wandb.Artifact(f"run_{self.run_id}_{file.name}", type=content)
        artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def finish(self, succeeded: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if succeeded else 1)
