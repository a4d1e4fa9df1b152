"""Surgery: narrow a stock network, describe the result as data, check it and save it.

``model.yaml['channels']`` lists the widths that differ from the plain configuration (see models/widths.py), and
``activation``, ``modules`` and the anchors say what else does (see models/description.py), so ``DetectionModel(yaml)``
rebuilds a pruned network, and its file pickles stock classes only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from models.description import describe
from models.widths import head_convolutions, width_of
from models.yolo import DetectionModel
from prune_tools.channels.groups import ChannelGroup
from prune_tools.planning.plan import Plan
from prune_tools.pruned_common import narrow_module
from utils.checkpoint import save_checkpoint
from utils.errors import InputError
from utils.storage.files import atomic_path
from utils.version import MADE_BY

TOLERANCE = 1e-4  # largest difference of pruned and masked outputs, as a share of the output's largest value
SIDES = {"output": ["outputs"], "input": ["inputs"], "norm": ["inputs", "outputs"], "depthwise": ["inputs", "outputs"]}


@dataclass
class Cut:
    """The channels of one module that are kept: (K,) int64 indices of inputs and outputs, None where all are."""

    inputs: np.ndarray | None = None
    outputs: np.ndarray | None = None


def find_cuts(model: nn.Module, groups: Iterable[ChannelGroup], plan: Plan) -> dict[str, Cut]:
    """The channels that are kept of each module that a plan narrows, by module path."""
    modules = dict(model.named_modules())
    kept: dict[tuple[str, str], np.ndarray] = {}  # path, side -> (C,) bool
    for group in groups:
        removed = plan.removed(group)
        for member in group.members if len(removed) else ():
            for side in SIDES[member.role]:
                width = _width(modules[member.path], side)
                mask = kept.setdefault((member.path, side), np.ones(width, dtype=bool))
                mask[member.indices[removed]] = False
    cuts: dict[str, Cut] = defaultdict(Cut)
    for (path, side), mask in kept.items():
        setattr(cuts[path], side, np.flatnonzero(mask))
    return dict(cuts)


def _width(module: nn.Module, side: str) -> int:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return int(module.num_features)
    return int(getattr(module, "in_channels" if side == "inputs" else "out_channels"))


def prune_model(model: DetectionModel, groups: Sequence[ChannelGroup], plan: Plan) -> dict[str, Cut]:
    """Narrow ``model`` in place to what ``plan`` keeps, and record its widths in ``model.yaml['channels']``.

    A model that has been pruned before can be pruned again. Returns what was kept of each module.
    """
    cuts = find_cuts(model, groups, plan)
    modules = dict(model.named_modules())
    for path, cut in cuts.items():
        narrow_module(modules[path], cut.inputs, cut.outputs)
    record_widths(model, cuts)
    return cuts


def record_widths(model: DetectionModel, paths: Iterable[str]) -> None:
    """Add the widths of the narrowed modules to ``model.yaml['channels']``, which has those of earlier prunings."""
    head, modules = head_convolutions(model), dict(model.named_modules())
    channels = dict(model.yaml.get("channels") or {})
    for path in paths:
        widths = width_of(modules[path])
        channels[path] = widths[:1] if path in head else widths  # the head's outputs follow from nc
    model.yaml = {**deepcopy(model.yaml), **({"channels": channels} if channels else {})}
    model.yaml = describe(model)
    layer: Any
    for layer in model.model:
        layer.np = sum(parameter.numel() for parameter in layer.parameters())


def mask_model(model: DetectionModel, groups: Sequence[ChannelGroup], plan: Plan, beta: bool = True) -> DetectionModel:
    """A full-width copy whose removed channels have gamma and, unless ``beta`` is false, beta zero.

    With both zero, it computes what the pruned network computes. The biases of depthwise convolutions on these channels
    are set to zero with the betas.
    """
    masked = deepcopy(model)
    modules = dict(masked.named_modules())
    with torch.no_grad():
        for group in groups:
            removed = plan.removed(group)
            for member in group.of_role("norm", "depthwise"):
                module, indices = modules[member.path], torch.as_tensor(member.indices[removed])
                if member.role == "norm":
                    module.weight[indices] = 0
                if beta and module.bias is not None:
                    module.bias[indices] = 0
    return masked


def outputs_of(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """The decoded predictions and the raw heads of a model in evaluation mode, as one list of fp32 or fp64 maps."""
    model.eval()
    # TF32 would round the sums of two networks differently
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        decoded, heads = model(images)[:2]
    return [decoded, *heads]


def largest_difference(pruned: nn.Module, masked: nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """Largest difference of the two networks' outputs on ``images`` (B, 3, H, W; 0..1), absolute and relative.

    The relative one is a share of the largest absolute value of each output map.
    """
    absolute, relative = 0.0, 0.0
    for ours, expected in zip(outputs_of(pruned, images), outputs_of(masked, images), strict=True):
        difference = float((ours - expected).abs().max())
        scale = float(expected.abs().max())
        absolute = max(absolute, difference)
        relative = max(relative, difference / scale if scale else difference)
        if difference != difference or scale == float("inf"):
            return float("nan"), float("nan")
    return absolute, relative


def check_surgery(pruned: nn.Module, masked: nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """``largest_difference``, refused when above TOLERANCE.

    Raises:
        InputError: the masked network gives values that are not finite.
        RuntimeError: the pruned network is wrong (a bug in this program).
    """
    absolute, relative = largest_difference(pruned, masked, images)
    if relative != relative:
        raise InputError("the model's predictions on real images are not finite numbers: its training has diverged")
    if relative > TOLERANCE:
        raise RuntimeError(
            f"the pruned model's output differs from the masked model's by {absolute:.3g} ({relative:.2%} of the "
            f"largest value; at most {TOLERANCE:.2%} is rounding): nothing was saved, please report this"
        )
    return absolute, relative


def save_model(model: DetectionModel, path: str | Path, source: Mapping[str, Any]) -> None:
    """Write a stripped checkpoint as v6.2 does: fp16, no optimizer; ``opt`` is that of ``source``."""
    stored = deepcopy(model).eval().requires_grad_(False)
    empty = dict.fromkeys(("best_fitness", "ema", "updates", "optimizer", "wandb_id"))
    state = {"epoch": -1, "model": stored, **empty, "opt": source.get("opt"), "date": datetime.now().isoformat()}
    save_checkpoint(state, path)


def save_pruned(folder: Path, pruned: DetectionModel, masked: DetectionModel, source: Mapping[str, Any]) -> None:
    """Write pruned_model.pt, pruned_model.yaml and orign_model.pt (the masked full-width model; the original tools'
    spelling) into ``folder``."""
    save_model(pruned, folder / "pruned_model.pt", source)
    save_model(masked, folder / "orign_model.pt", source)
    header = f"# A pruned YOLOv5 ({MADE_BY}); 'channels' are the widths that differ from the plain configuration.\n"
    with atomic_path(folder / "pruned_model.yaml") as draft:
        text = yaml.safe_dump(describe(pruned), sort_keys=False, default_flow_style=None, width=120)
        draft.write_text(header + text, encoding="utf-8")
