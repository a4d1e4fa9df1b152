"""safetensors: the checkpoint's weights, neither fused nor traced, with its configuration."""

from __future__ import annotations

import copy

from models.checkpoints.safetensors_models import SUFFIX, write_model
from models.checkpoints.soundness import check_unfused
from models.description import describe_file
from models.exporters.job import ExportJob
from models.loading import deployed, load_checkpoint
from utils.errors import InputError


def export(job: ExportJob) -> None:
    """Write ``job.path`` from the checkpoint ``job.source``."""
    if job.source is None or job.source.suffix.lower() == SUFFIX:
        raise InputError(f"{job.source} is a safetensors file: export it to another format")
    checkpoint = load_checkpoint(job.source)
    model = deployed(checkpoint)
    check_unfused(model, job.source)
    model.yaml = describe_file(copy.deepcopy(model).float().eval(), job.source)
    write_model(model, job.path, job.metadata.half)
