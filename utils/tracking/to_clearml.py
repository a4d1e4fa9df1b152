"""Tasks of ClearML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.commands.packages import require
from utils.tracking.tracker import RunLabel, Tracker

BINS = 64


class ClearmlTracker(Tracker):
    """Records by ``clearml``; its configuration file and variables count. A group is a project within the project."""

    def __init__(self, label: RunLabel, run_id: str = "") -> None:
        """Start or continue a task; nothing is recorded but what this object is given."""
        package = require("clearml", "--logger clearml", listed="")
        project = f"{label.project}/{label.group}" if label.group else label.project
        self._task = package.Task.init(
            project_name=project,
            task_name=label.name,
            reuse_last_task_id=run_id or False,
            continue_last_task=0 if run_id else False,  # 0: its steps are ours
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_resource_monitoring=False,
        )
        self._logger = self._task.get_logger()
        self.run_id = self._task.id

    def config(self, values: Mapping[str, Any]) -> None:
        """Record options and hyperparameters."""
        self._task.set_parameters({f"General/{name}": value for name, value in values.items()})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record figures; what stands before the slash of a tag is the title of their chart."""
        for tag, value in values.items():
            title, _, series = tag.partition("/")
            self._logger.report_scalar(title, series or title, value, step)

    def histogram(self, tag: str, values: NDArray, step: int) -> None:
        """Record the distribution of ``values`` (n,)."""
        counts, edges = np.histogram(values, bins=BINS)  # (B,), (B + 1,)
        labels = [f"{edge:.3g}" for edge in edges[:-1]]
        self._logger.report_histogram(tag, tag, counts, step, xlabels=labels, xaxis="value", yaxis="count")

    def image(self, tag: str, file: Path, step: int) -> None:
        """Record a picture."""
        self._logger.report_image("pictures", tag, step, local_path=str(file))

    def table(self, tag: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table."""
        self._logger.report_table(tag, tag, 0, table_plot=[list(header), *(list(row) for row in rows)])

    def artifact(self, file: Path) -> None:
        """Keep a copy of a file, and wait until it is there: it may change afterwards."""
        self._task.upload_artifact(file.name, artifact_object=file, wait_on_upload=True)

    def flush(self) -> None:
        """Send what has been collected."""
        self._task.flush()

    def finish(self, succeeded: bool) -> None:
        """End the task."""
        if not succeeded:
            self._task.mark_failed(status_reason="the run did not reach its end")
        self._task.close()
