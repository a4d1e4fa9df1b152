"""A network recorded as TorchScript, from which several formats are made."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from models.exporters.job import ExportJob


def traced(job: ExportJob) -> Any:
    """The job's network as a torch.jit.ScriptModule of one input and one output."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # sizes are recorded as constants on purpose, and checked afterwards
        return torch.jit.trace(job.model, job.image, strict=False, check_trace=False)
