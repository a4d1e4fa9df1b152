"""Experiments of Comet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from utils.commands.packages import require
from utils.tracking.tracker import RunLabel, Tracker


class CometTracker(Tracker):
    """Records by ``comet_ml``; its configuration file and variables count. A tag has the group."""

    def __init__(self, label: RunLabel, run_id: str = "") -> None:
        """Start or continue an experiment; nothing is recorded but what this object is given."""
        package = require("comet_ml", "--logger comet", listed="")
        quiet = {
            "log_code": False, "log_git_metadata": False, "log_git_patch": False, "parse_args": False,
            "auto_param_logging": False, "auto_metric_logging": False, "auto_output_logging": False,
            "auto_histogram_weight_logging": False, "auto_histogram_gradient_logging": False,
            "auto_histogram_activation_logging": False, "auto_histogram_tensorboard_logging": False,
        }  # fmt: skip
        self._experiment = package.start(
            project_name=os.environ.get("COMET_PROJECT_NAME") or label.project,
            experiment_key=run_id or None,
            experiment_config=package.ExperimentConfig(
                name=label.name, tags=[label.group] if label.group else None, **quiet
            ),
        )
        self.run_id = self._experiment.get_key()

    def config(self, values: Mapping[str, Any]) -> None:
        """Record options and hyperparameters."""
        self._experiment.log_parameters(dict(values))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record figures by tag."""
        self._experiment.log_metrics(dict(values), step=step, epoch=step)

    def histogram(self, tag: str, values: NDArray, step: int) -> None:
        """Record the distribution of ``values`` (n,)."""
        self._experiment.log_histogram_3d(values, name=tag, step=step, epoch=step)

    def image(self, tag: str, file: Path, step: int) -> None:
        """Record a picture."""
        self._experiment.log_image(str(file), name=tag, step=step)

    def table(self, tag: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table."""
        self._experiment.log_table(f"{tag}.csv", tabular_data=[list(row) for row in rows], headers=list(header))

    def artifact(self, file: Path) -> None:
        """Keep a copy of a file."""
        if file.suffix == ".pt":
            self._experiment.log_model(file.stem, str(file), overwrite=True)
        else:
            self._experiment.log_asset(str(file), file.name, overwrite=True)

    def finish(self, succeeded: bool) -> None:
        """End the experiment."""
        self._experiment.log_other("finished", succeeded)
        self._experiment.end()
