"""The steps of a pruning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prune_tools.options import PruningOptions
from utils.log import LOGGER

if TYPE_CHECKING:
    import torch

    from models.yolo import DetectionModel
    from prune_tools.channels.groups import ChannelGroup
    from prune_tools.channels.tracing import Trace
    from prune_tools.planning.plan import Plan
    from prune_tools.repair.calibration import Batch
    from prune_tools.repair.reconstruction import Recording
    from prune_tools.yolo_pruned import Cut


CHECKED_IMAGES = 4  # on which surgery is checked: what is wrong is wrong on each of them


@dataclass
class Pruning:
    """One pruning from plan to repaired network; ``full`` stays as it was.

    Attributes:
        full: the network before.
        trace: its trace.
        groups: those that take part.
        plan: what stays of them.
        cuts: what surgery has kept of each module.
        notes: what the repairs say of themselves.
    """

    full: DetectionModel
    trace: Trace
    groups: list[ChannelGroup]
    plan: Plan
    cuts: dict[str, Cut] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def removes_any(self) -> bool:
        """Tell whether the plan removes anything."""
        return any(len(self.plan.removed(group)) for group in self.groups)

    def narrow(self) -> DetectionModel:
        """The narrowed network."""
        from prune_tools.yolo_pruned import prune_model

        pruned = deepcopy(self.full)
        self.cuts = prune_model(pruned, self.groups, self.plan)
        return pruned

    def cut(self, images: torch.Tensor) -> tuple[DetectionModel, DetectionModel]:
        """The narrowed and the masked full-width network, checked against each other on the first of ``images``."""
        from prune_tools.yolo_pruned import check_surgery, mask_model

        images = images[:CHECKED_IMAGES]
        masked, pruned = mask_model(self.full, self.groups, self.plan), self.narrow()
        absolute, relative = check_surgery(pruned, masked, images)
        self._note(
            f"Surgery checked on {len(images)} real images: the pruned model equals the masked full-width model, "
            f"largest difference {absolute:.3g} ({relative:.1e} of the largest output)"
        )
        return pruned, masked

    def repair(
        self,
        pruned: DetectionModel,
        options: PruningOptions,
        batches: Sequence[Batch],
        recording: Recording | None = None,
    ) -> None:
        """Give accuracy back without training, in place: fold constants, re-fit the layers, estimate batch norm.

        ``batches`` are those of ``repair_batches``; ``recording`` is as in ``reconstruct``.
        """
        from prune_tools.repair.calibration import BATCH_SIZE, recalibrate
        from prune_tools.repair.folding import fold_constants
        from prune_tools.repair.reconstruction import reconstruct

        if options.fold:
            self._note(fold_constants(self.full, pruned, self.trace, self.groups, self.plan).summary())
        if options.reconstruct:
            chosen = batches[: math.ceil(options.reconstruct / BATCH_SIZE)]
            result = reconstruct(self.full, pruned, self.trace, self.cuts, chosen, recording=recording)
            self._note(result.summary())
        if options.recalibrate:
            chosen = batches[: math.ceil(options.recalibrate / BATCH_SIZE)]
            recalibrate(pruned, chosen)
            self.notes.append(f"Batch norm estimated anew on {sum(len(batch.images) for batch in chosen)} images")

    def _note(self, text: str) -> None:
        LOGGER.info(text)
        self.notes.append(text)
