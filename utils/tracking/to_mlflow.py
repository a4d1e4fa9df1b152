"""Runs in MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.commands.packages import require
from utils.tracking.tracker import RunLabel, Tracker

LONGEST_VALUE = 500  # characters of a parameter, which older servers take
PARAMETERS = 100  # in one request
METRICS = 1000
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of a histogram, which MLflow does not have: curves over the epochs


class MlflowTracker(Tracker):
    """Records by the client of ``mlflow``; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and its other variables count.

    An experiment is a project, a tag has the group.
    """

    def __init__(self, label: RunLabel, run_id: str = "") -> None:
        """Start or continue a run."""
        mlflow = require("mlflow", "--logger mlflow", listed="")
        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient()
        self._metrics: list[Any] = []
        self._resumed = bool(run_id)
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
        else:
            mark = {"mlflow.source.name": "yolov5-prune", **({"group": label.group} if label.group else {})}
            experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or label.project)
            run_id = self._client.create_run(experiment, tags=mark, run_name=label.name).info.run_id
        self.run_id = run_id

    def _experiment(self, name: str) -> str:
        """The id of the experiment ``name``, made where it is missing."""
        existing = self._client.get_experiment_by_name(name)
        return self._client.create_experiment(name) if existing is None else existing.experiment_id

    def config(self, values: Mapping[str, Any]) -> None:
        """Record options and hyperparameters; those of a resumed run cannot change."""
        if self._resumed:
            return
        params = [self._entities.Param(name, str(value)[:LONGEST_VALUE]) for name, value in values.items()]
        for start in range(0, len(params), PARAMETERS):
            self._client.log_batch(self.run_id, params=params[start : start + PARAMETERS])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Collect figures by tag."""
        now = int(time.time() * 1000)
        self._metrics += [self._entities.Metric(tag, float(value), now, step) for tag, value in values.items()]

    def histogram(self, tag: str, values: NDArray, step: int) -> None:
        """Collect the quantiles of ``values`` (n,)."""
        levels = np.quantile(values, QUANTILES)  # (7,)
        self.scalars({f"{tag}/q{share:.2f}": level for share, level in zip(QUANTILES, levels, strict=True)}, step)

    def image(self, tag: str, file: Path, step: int) -> None:
        """Keep a picture among the run's artifacts."""
        self._client.log_artifact(self.run_id, str(file), "pictures")

    def table(self, tag: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Keep a table among the run's artifacts."""
        columns = {name: [row[index] for row in rows] for index, name in enumerate(header)}
        self._client.log_table(self.run_id, columns, f"{tag}.json")

    def artifact(self, file: Path) -> None:
        """Keep a copy of a file."""
        self._client.log_artifact(self.run_id, str(file), "weights")

    def flush(self) -> None:
        """Send the figures that were collected."""
        collected, self._metrics = self._metrics, []
        for start in range(0, len(collected), METRICS):
            self._client.log_batch(self.run_id, metrics=collected[start : start + METRICS])

    def finish(self, succeeded: bool) -> None:
        """End the run."""
        self.flush()
        self._client.set_terminated(self.run_id, "FINISHED" if succeeded else "FAILED")
