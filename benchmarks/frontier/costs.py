"""The cost of trainings in base-epoch equivalents: what one epoch of the base at full width costs is 1.

A step costs its network's share of the base's operations, times .4 for the forward and .6 for the backward pass. The
forward pass of a teacher costs .4 times the share of the teacher. Validation is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

FORWARD, BACKWARD = 0.4, 0.6
SIZE = 640  # pixels, for which operations are counted
ROUNDING = 8  # channel multiple of the methods that have one
ROUNDING_ERROR = 1e-9  # of epochs


@dataclass(frozen=True)
class Spent:
    """One stage of a method.

    Attributes:
        stage: its name.
        epochs: passes over the training images; a fraction where only some of the images are seen.
        share: operations of the network, as a share of those of the base at its own image size.
        teacher: the same of the teacher; 0 without one.
        backward: False where images pass forward only.
    """

    stage: str
    epochs: float
    share: float
    teacher: float = 0.0
    backward: bool = True

    @property
    def cost(self) -> float:
        """Base-epoch equivalents."""
        step = self.share * (FORWARD + (BACKWARD if self.backward else 0.0)) + FORWARD * self.teacher
        return self.epochs * step

    def record(self) -> dict[str, Any]:
        """The values of the fields, and the cost."""
        return {**asdict(self), "cost": self.cost}


def total(stages: Iterable[Spent]) -> float:
    """The cost of all stages."""
    return sum(stage.cost for stage in stages)


def affordable_epochs(cost: float, share: float, teacher: float = 0.0) -> int:
    """The whole epochs of training that ``cost`` pays for; arguments as those of ``Spent``."""
    return max(math.floor(cost / Spent("", 1, share, teacher).cost + ROUNDING_ERROR), 0)
