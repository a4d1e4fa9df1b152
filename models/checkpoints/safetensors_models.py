"""Detectors as safetensors: weights by name, and their configuration as JSON.

The network is built from the configuration (``yaml``, with the widths of a pruned one under ``channels``): the file
holds nothing but numbers and texts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.metadata import KEY
from models.yolo import DetectionModel
from utils.dataset.classes import class_names
from utils.errors import CheckpointError, InputError
from utils.log import warnings_only
from utils.torch_files.safetensors_file import read_safetensors, write_safetensors
from utils.version import MADE_BY

SUFFIX = ".safetensors"
VERSION = 1  # of the description


def write_model(model: nn.Module, path: str | Path, half: bool = False) -> None:
    """Write a DetectionModel that is not fused, in FP16 if ``half``, else in its own precision."""
    facts: Any = model
    content = {
        "version": VERSION,
        "yaml": facts.yaml,
        "names": class_names(facts),
        "stride": facts.stride.tolist(),
        "anchors": facts.model[-1].anchors.tolist(),
        "made_by": MADE_BY,
    }
    tensors = {
        name: value.half() if half and value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    write_safetensors(path, tensors, {"format": "pt", KEY: json.dumps(content)})


def read_model(path: str | Path) -> DetectionModel:
    """Read a file written by ``write_model``: the model in evaluation mode and the file's precision.

    Raises:
        CheckpointError: it is damaged, or holds weights of another network.
    """
    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        raise CheckpointError(
            f"{path} has weights ({len(tensors)} tensors) and does not say of which network: expected the file that "
            "export.py --include safetensors writes"
        )
    try:
        content = json.loads(metadata[KEY])
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: its metadata are not JSON: export it again") from None
    if not isinstance(content, dict) or content.get("version") != VERSION or not isinstance(content.get("yaml"), dict):
        raise CheckpointError(f"{path}: its metadata are of another version of this program: export it again")
    try:
        with warnings_only(), torch.random.fork_rng(devices=[]):  # its random weights are replaced
            model = DetectionModel(content["yaml"])
    except InputError as error:
        raise CheckpointError(f"{path}: its network cannot be built: {error}") from error
    _fill(model, tensors, path)
    names: Any = content.get("names")
    model.names = names
    if content.get("stride") != model.stride.tolist():
        raise CheckpointError(f"{path}: its strides are not those of its network: export it again")
    return model.eval().requires_grad_(False)


def _fill(model: DetectionModel, tensors: dict[str, torch.Tensor], path: str | Path) -> None:
    """Load the tensors into the model. Raises CheckpointError unless they match its state dict one to one."""
    state = model.state_dict()
    wrong = [
        name
        for name in state.keys() | tensors.keys()
        if name not in state
        or name not in tensors
        or state[name].shape != tensors[name].shape
        or state[name].is_floating_point() != tensors[name].is_floating_point()
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} of its {len(tensors)} tensors do not fit the network that it describes, such as "
            f"{min(wrong)}: export it again"
        )
    if any(value.dtype == torch.float16 for value in tensors.values()):
        model.half()
    model.load_state_dict(tensors)
