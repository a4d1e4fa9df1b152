"""Networks, plans and images that the tests of prune_tools share."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.yolo import DetectionModel
from prune_tools.channels.groups import ChannelGroup, find_groups
from prune_tools.planning.plan import Plan
from prune_tools.sparsity.gammas import ChannelGammas
from tests.profiles import NIGHTLY
from utils.storage.files import ROOT, read_yaml

EVERY_ARCHITECTURE = sorted(path.stem for path in ROOT.glob("models/**/yolo*.yaml"))
BY_DAY = ["yolov3-tiny", "yolov5-bifpn", "yolov5n", "yolov5s-ghost", "yolov5s-transformer"]  # all blocks among them
ARCHITECTURES = EVERY_ARCHITECTURE if NIGHTLY else BY_DAY
OWN_CONFIG = {
    "nc": 3, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 3,
    "backbone": [
        [-1, 1, "Focus", [16, 3]],
        [-1, 1, "Conv", [24, 3, 2]],
        [-1, 2, "BottleneckCSP", [24]],
        [-1, 1, "DWConv", [24, 3, 2]],
        [-1, 1, "C3x", [32]],
        [-1, 1, "MixConv2d", [32, [1, 3], 2]],
        [-1, 1, "CrossConv", [32, 3, 1, 1, 1.0, True]],
        [-1, 1, "Contract", [2]],
        [-1, 1, "Conv", [32, 1]],
        [-1, 1, "Expand", [2]],
        [-1, 1, "C3SPP", [32]],
        [-1, 1, "nn.BatchNorm2d", []],
        [-1, 1, "GhostBottleneck", [40, 3, 2]],
    ],
    "head": [
        [-1, 1, "Conv", [24]],
        [-1, 1, "DWConvTranspose2d", [24, 2, 2]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 1, "BottleneckCSP", [32, False]],
        [-1, 1, "C3", [32]],
        [[17, 16, 12], 1, "Detect", ["nc", "anchors"]],
    ],
}  # fmt: skip


def with_random_norms(model: nn.Module) -> nn.Module:
    """Norms as after a training, so that every channel counts; evaluation mode, float64."""
    generator = torch.Generator().manual_seed(1)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        shape = norm.weight.shape
        norm.weight.data = torch.rand(shape, generator=generator) * 2 - 1
        norm.bias.data = torch.rand(shape, generator=generator) - 0.5
        norm.running_mean = torch.rand(shape, generator=generator) - 0.5
        norm.running_var = torch.rand(shape, generator=generator) + 0.5
    return model.eval().double()


def thin(name: str) -> DetectionModel:
    """A shipped configuration at an eighth of the full width: the same structure, quick to run."""
    config = read_yaml(next(ROOT.glob(f"models/**/{Path(name).name}.yaml")))
    return with_random_norms(DetectionModel({**config, "width_multiple": 0.125, "nc": 2}))


def trainable_network() -> DetectionModel:
    """YOLOv5n at an eighth of the full width, in single precision."""
    return thin("yolov5n").float().requires_grad_(True)


def random_gammas(network: DetectionModel) -> ChannelGammas:
    """All prunable channels of ``network``, coupled ones too, at random gammas, always the same."""
    torch.manual_seed(0)
    chosen = ChannelGammas(network, "all")
    for norm in chosen.norms.values():
        norm.weight.data = torch.rand(norm.num_features) * 2 - 1
        norm.weight.grad = torch.zeros(norm.num_features)
    return chosen


def random_plan(groups: list[ChannelGroup], seed: int = 0) -> Plan:
    """A random share of each group, often a single channel."""
    rng = np.random.default_rng(seed)
    kept = {}
    for group in groups:
        count = 1 if rng.random() < 0.25 else int(rng.integers(1, group.size + 1))
        kept[group.name] = np.sort(rng.choice(group.size, count, replace=False))
    return Plan(kept)


def pad_by_repetition(model: nn.Module) -> None:
    """Let constant maps stay constant at the border: the border's own values instead of zeros."""
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.Conv2d):
                module.padding_mode = "replicate"
            elif isinstance(module, nn.ZeroPad2d):
                fresh = nn.ReplicationPad2d(module.padding)
                fresh.__dict__.update(
                    {key: value for key, value in vars(module).items() if key in ("i", "f", "type", "np")}
                )
                setattr(parent, name, fresh)


def random_images(model: DetectionModel, seed: int = 2) -> torch.Tensor:
    """Two images (2, 3, size, size), 0..1, that the largest stride divides."""
    size = max(64, int(model.stride.max()))
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def prunable_norms(model: nn.Module, scope: str = "seed") -> dict[str, nn.BatchNorm2d]:
    """The batch norms, by path, all of whose channels may be pruned in ``scope``; empty if there are none."""
    covered: dict[str, int] = defaultdict(int)
    for group in find_groups(model):
        if not group.exclusion(scope):
            for member in group.norms:
                covered[member.path] += group.size
    modules = dict(model.named_modules())
    return {path: modules[path] for path, count in covered.items() if count == modules[path].num_features}
