"""The methods that are compared: their names, the trainings that they start from, and what they pay for."""

from __future__ import annotations

from dataclasses import dataclass

# Trainings that several cells of one data set and seed start from
BASE, LARGER = "base", "larger-base"
L1, POLARIZED, LARGER_POLARIZED, ONCE = "sparse-l1", "polarized", "larger-polarized", "polarized-once"
IN_STEPS = "group-norm-in-steps"
VARIANTS = ("bn-scale", "group-norm", "taylor", IN_STEPS)  # of Torch-Pruning; the first one prunes the L1 model


@dataclass(frozen=True)
class Method:
    """One way to a network.

    Attributes:
        title: in tables.
        needs: the trainings that it starts from, in their order.
        pays_base: it starts from the base, so the epochs of the base are part of its cost. With a teacher, every method
            pays for the base, which is the teacher.
        has_budget: False for the base itself, which is trained on at full width.
    """

    title: str
    needs: tuple[str, ...] = (BASE,)
    pays_base: bool = True
    has_budget: bool = True


OURS, BASE_METHOD, TORCH_PRUNING = "ours", "B0", "B7"
METHODS = {
    BASE_METHOD: Method("base, trained on", has_budget=False),
    "B1": Method("narrow network from scratch", pays_base=False),
    "B2": Method("narrow network, sliced from the base and re-fitted"),
    "B3": Method("our widths from scratch", (BASE, POLARIZED), pays_base=False),
    "B4": Method("base at a smaller image"),
    "B5": Method("random channels"),
    "B6": Method("uniform, L1 norm of kernels"),
    TORCH_PRUNING: Method("Torch-Pruning", (BASE, L1)),
    "B8": Method("original tools (L1, global percentage)", (BASE, L1)),
    OURS: Method("polarized, folded, re-fitted", (BASE, POLARIZED)),
    "B9-no-sparse": Method("without sparse training"),
    "B9-l1": Method("with L1 instead of polarize", (BASE, L1)),
    "B9-no-fold": Method("without folding", (BASE, POLARIZED)),
    "B9-no-refit": Method("without the re-fit", (BASE, POLARIZED)),
    "once": Method("one reversible training from the released weights", (BASE, ONCE), pays_base=False),
    "B10": Method("the same from a larger start", (BASE, LARGER, LARGER_POLARIZED), pays_base=False),
}
NEEDS_START, NEEDS_WEIGHTS = "B10", "once"  # of --start; of --weights, besides the base
DEFAULT_METHODS = tuple(name for name in METHODS if name != NEEDS_START)
