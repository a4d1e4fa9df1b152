"""TorchScript files, with the metadata as the extra file ``config.txt``."""

from __future__ import annotations

import json
from dataclasses import asdict

from models.backends.torchscript import METADATA_FILE
from models.exporters.job import ExportJob
from models.exporters.tracing import traced


def export(job: ExportJob) -> None:
    """Write ``job.path``."""
    content = asdict(job.metadata) | {"shape": list(job.image.shape)}  # key of v6.2
    traced(job).save(str(job.path), _extra_files={METADATA_FILE: json.dumps(content)})
