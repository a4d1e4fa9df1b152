"""Interfaces of what a training run needs from outside utils: train.py passes ``models.transfer`` and ``val.run``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from utils.callbacks import Callbacks
from utils.distributed import World
from utils.training.options import TrainOptions

Results = tuple[float, ...]  # P, R, mAP50, mAP50-95, box loss, objectness loss, class loss


class Networks(Protocol):
    """Reading, building and writing networks."""

    def load_checkpoint(self, path: str | Path) -> dict[str, Any]:
        """The content of a checkpoint, its 'model' a network."""

    def build_model(
        self, options: TrainOptions, hyp: dict[str, Any], class_count: int, checkpoint: dict[str, Any] | None
    ) -> nn.Module:
        """The network to train, with the weights of ``checkpoint`` that fit."""

    def freeze_layers(self, model: nn.Module, layers: list[int]) -> None:
        """Stop the gradients of the first n layers ([n]) or of exactly the layers listed."""

    def has_head_of(self, model: Any, source: Any) -> bool:
        """Tell whether the head of ``model`` has the outputs and the anchors of that of ``source``."""

    def attempt_load(self, weights: str | Path, device: torch.device | None = None) -> nn.Module:
        """The network of a checkpoint, ready for validation."""

    def strip_optimizer(self, path: str | Path) -> None:
        """Make a training checkpoint one for use."""


class Validation(Protocol):
    """Measures a network; see val.run."""

    def __call__(self, data: dict[str, Any], **keywords: Any) -> tuple[Results, Any, Results]:
        """The results, mAP50-95 by class, and milliseconds per image."""


@dataclass(frozen=True)
class Surroundings:
    """Everything that a training run is given in addition to its options.

    Attributes:
        networks, validate: from the folders above utils.
        callbacks: the actions at the hooks.
        device, world: of this process.
    """

    networks: Networks
    validate: Validation
    device: torch.device
    world: World = field(default_factory=World)
    callbacks: Callbacks = field(default_factory=Callbacks)
