"""One pruning: surgery, its check, and the repairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import torch

from models.yolo import DetectionModel
from prune_tools.channels.structure import Structure
from prune_tools.options import PruningOptions
from prune_tools.planning.plan import Plan
from prune_tools.repair.calibration import recalibrate
from prune_tools.repair.folding import fold_constants
from prune_tools.repair.reconstruction import Recording, reconstruct
from prune_tools.training_images import BATCH_SIZE, Batch
from prune_tools.yolo_pruned import Cut, check_surgery, mask_model, prune_model
from utils.log import LOGGER

CHECKED_IMAGES = 4  # on which surgery is checked: an error in it shows on every image


@dataclass
class Pruned:
    """Result of a pruning.

    Attributes:
        model: the narrow network.
        cuts: the channels that were kept of each narrowed module.
        masked: the full-width network that the narrow one equalled before repairs, where that was checked.
        notes: a line for the report from each step.
    """

    model: DetectionModel
    cuts: dict[str, Cut]
    masked: DetectionModel | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Log a line and keep it for the report."""
        LOGGER.info(text)
        self.notes.append(text)


def narrow(structure: Structure, plan: Plan) -> Pruned:
    """A narrowed copy of the network, neither checked nor repaired."""
    model = deepcopy(structure.model)
    return Pruned(model, prune_model(model, structure.groups, plan))


def prune(
    structure: Structure,
    plan: Plan,
    repairs: PruningOptions,
    batches: Sequence[Batch] = (),
    images: torch.Tensor | None = None,
    recording: Recording | None = None,
) -> Pruned:
    """Narrow the network, check the surgery, and restore accuracy without training.

    The repairs are: fold the constants of removed channels, re-fit the layers, re-estimate batch norm.

    Args:
        structure: the network before, with the groups that the plan is for; it is not changed.
        plan: the channels of these groups to keep.
        repairs: options that switch the repairs on and off.
        batches: training images for the repairs, as ``Inputs.repair_batches`` gives.
        images: (B, 3, H, W) in 0..1 on the network's device, to check the surgery on; None: no check.
        recording: as in ``reconstruct``.

    Raises:
        InputError: the network's outputs are not finite.
        RuntimeError: the surgery is wrong (a bug in this program).
    """
    pruned = narrow(structure, plan)
    if images is not None:
        _check(pruned, structure, plan, images[:CHECKED_IMAGES])
    if repairs.fold:
        pruned.note(fold_constants(structure, pruned.model, plan).summary())
    if repairs.reconstruct:
        fitted = batches[: math.ceil(repairs.reconstruct / BATCH_SIZE)]
        pruned.note(reconstruct(structure, pruned.model, pruned.cuts, fitted, recording).summary())
    if repairs.recalibrate:
        fitted = batches[: math.ceil(repairs.recalibrate / BATCH_SIZE)]
        recalibrate(pruned.model, fitted)
        pruned.notes.append(
            f"Batch-norm statistics re-estimated on {sum(len(batch.images) for batch in fitted)} images"
        )
    return pruned


def _check(pruned: Pruned, structure: Structure, plan: Plan, images: torch.Tensor) -> None:
    """Compare the narrow network with the masked full-width one, which is kept."""
    pruned.masked = mask_model(structure.model, structure.groups, plan)
    absolute, relative = check_surgery(pruned.model, pruned.masked, images)
    pruned.note(
        f"Surgery checked on {len(images)} real images: the pruned model equals the masked full-width model, "
        f"largest difference {absolute:.3g} ({relative:.1e} of the largest output)"
    )
