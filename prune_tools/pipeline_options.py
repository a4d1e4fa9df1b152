"""The options of a pipeline, and what follows from them for each of its steps and rounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prune_tools.planning.options import DEFAULT_ROUNDING
from prune_tools.train_sparity import AUTO, PENALTIES, SCOPES, SparseOptions
from prune_tools.tuning.recipes import RECIPES
from utils.commands.options import LARGEST_IMAGE, LARGEST_SEED, as_list, build, check_numbers, option
from utils.errors import InputError, short_repr
from utils.storage.files import ROOT
from utils.training.options import TrainOptions

DEFAULT_FLOPS = "0.5"

SHARED = ("data", "hyp", "imgsz", "batch_size", "seed", "single_cls")  # options that every step depends on
GOAL = ("target_flops", "target_params", "percent", "scope", "skip", "round_to")
OWN = {
    "base": ("weights", "cfg", "base_epochs"),
    "sparse": ("sparse_epochs", "penalty", "sr", "max_map_loss", *GOAL),
    "pruned": (*GOAL, "reconstruct"),
    "finetuned": ("finetune_epochs", "recipe"),
}


@dataclass
class PipelineOptions:
    """Options of the steps together."""

    data: str = option(str(ROOT / "data/mask.yaml"), "data set YAML")
    weights: str = option("", "start from this checkpoint; '' starts from scratch with --cfg", handed_on=False)
    cfg: str = option("", "model YAML; default: the architecture stored in --weights", handed_on=False)
    hyp: str = option(
        "", "hyperparameter YAML of the three trainings; default: those of the three commands", handed_on=False
    )
    imgsz: int = option(
        320, "image size in pixels, longer side", "--img", "--img-size", at_least=1, at_most=LARGEST_IMAGE
    )
    batch_size: int = option(16, "images per batch", at_least=1)
    base_epochs: int = option(100, "epochs of the base model", at_least=1)
    sparse_epochs: int = option(50, "epochs of sparse training", at_least=1)
    finetune_epochs: int = option(50, "epochs of fine-tuning", at_least=1)
    rounds: int = option(
        1,
        "prune in so many equal steps, each with its part of the sparse and the fine-tuning epochs",
        at_least=1,
        handed_on=False,
    )
    target_flops: str = option("", "operations that remain, at 640 pixels: 2.1G, or a ratio; default: 0.5")
    target_params: str = option("", "instead: parameters that remain, such as 0.9M, or a ratio")
    percent: float | None = option(
        None, "instead: share of the prunable channels to remove", type=float, at_least=0, at_most=1
    )
    scope: str = option(
        "", "prunable channels: seed, of layers outside shortcuts, default of --percent; all, coupled ones too",
        choices=SCOPES,
    )  # fmt: skip
    skip: list[str] = option([], "leave these layers whole: module paths, wildcards allowed", nargs="+")
    round_to: int | None = option(
        None,
        "for the targets: round the channels that a layer keeps to multiples of this; default: 8",
        type=int,
        at_least=1,
    )
    penalty: str = option(
        "polarize", "of sparse training: polarize pushes just the channels that will go; l1 and prox push all",
        choices=list(PENALTIES),
    )  # fmt: skip
    sr: float | None = option(
        None, "rate of --penalty l1 or prox; default: found out by itself", type=float, at_least=0, at_most=1000
    )
    max_map_loss: float | None = option(
        None,
        "sparse training holds back while mAP50 is further than this below the base's; default: 0.03",
        type=float,
        at_least=0,
        at_most=1,
    )
    reconstruct: int = option(
        192, "training images on which the pruned layers are re-fitted; 0 = off", at_least=0, handed_on=False
    )
    recipe: str = option(
        "", "schedule of fine-tuning; default: gentle, short where pruning has cost more than a twentieth of the "
        "base's mAP50, v6.2 with a --hyp of your own", choices=list(RECIPES),
        handed_on=False,
    )  # fmt: skip
    single_cls: bool = option(False, "treat all classes as one")
    cache: str = option(
        "auto",
        "keep images in memory (ram; auto: where they fit comfortably), on disk (disk) or not (none)",
        choices=["auto", "ram", "disk", "none"],
    )  # fmt: skip
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    workers: int = option(8, "most data loading processes", at_least=0)
    seed: int = option(0, "seed of all random numbers", at_least=0, at_most=LARGEST_SEED)
    project: str = option(str(ROOT / "runs/pipeline"), "folder of the runs", handed_on=False)
    name: str = option("exp", "name of this run; an existing one is continued", handed_on=False)
    sweep: str = option("", "run folder of sweep.py whose curve goes into report.html", handed_on=False)
    sensitivity: str = option("", "run folder of sensitivity.py whose figures go into report.html", handed_on=False)

    def __post_init__(self) -> None:
        """Build the options of every step, so that a bad value stops before the first and not before the third."""
        from prune_tools.options import PruneOptions

        check_numbers(self)
        self.skip = as_list(self.skip)
        if self.percent is None and not self.target_params and not self.target_flops:
            self.target_flops = DEFAULT_FLOPS
        if self.percent is not None:
            if not 0 < self.percent < 1:
                raise InputError(f"--percent must lie in (0, 1), got {self.percent:g}: try 0.4")
            if self.round_to not in (None, 1):
                raise InputError(f"--round-to {self.round_to} is for --target-flops and --target-params: leave it out")
        if self.round_to is None:
            self.round_to = DEFAULT_ROUNDING if self.percent is None else 1
        if not 1 <= self.rounds <= min(self.sparse_epochs, self.finetune_epochs):
            raise InputError(
                f"--rounds must be at least 1 and at most --sparse-epochs ({self.sparse_epochs}) and --finetune-epochs "
                f"({self.finetune_epochs}), got {self.rounds}"
            )
        common = {"imgsz": self.imgsz, "batch_size": self.batch_size}
        for epochs in (self.base_epochs, self.finetune_epochs):
            build(TrainOptions, epochs=epochs, **common)
        if self.recipe not in ("", *RECIPES):
            raise InputError(f"unknown --recipe {short_repr(self.recipe)}: choose one of {', '.join(RECIPES)}")
        build(PruneOptions, **self.of_pruning(), **common)
        build(SparseOptions, epochs=self.sparse_epochs, **self.of_penalty(), **common)

    def of_round(self, number: int, base: Path, present: Path) -> PipelineOptions:
        """The options of round ``number``, from 1: its share of the epochs, and the goal that it has to reach.

        From the costs of ``present``, the checkpoint that the round starts from, they shrink by the same factor in each
        round that is left; ratios are of those of ``base``.
        """
        if self.rounds == 1:
            return self
        epochs = {
            name: getattr(self, name) * number // self.rounds - getattr(self, name) * (number - 1) // self.rounds
            for name in ("sparse_epochs", "finetune_epochs")
        }
        if self.percent is not None:
            goal: dict[str, Any] = {"percent": 1 - (1 - self.percent) ** (1 / self.rounds)}
        else:
            goal = _budget_of_round(self, self.rounds - number + 1, base, present)
        return replace(self, rounds=1, **epochs, **goal)

    def of_penalty(self) -> dict[str, Any]:
        """Options of sparse training: the channels that pruning will remove are those to bring to zero."""
        scope = self.scope or ("all" if self.percent is None else "seed")
        chosen: dict[str, Any] = {"penalty": self.penalty, "scope": scope, "skip": self.skip}
        chosen["max_map_loss"] = self.max_map_loss
        if self.penalty != "polarize":
            chosen["sr"] = AUTO if self.sr is None else self.sr
        elif self.sr is not None:
            raise InputError(f"--sr {self.sr:g} is a rate of --penalty l1 or prox: polarize takes none")
        if self.percent is not None:
            return chosen | {"target_share": self.percent}
        if self.penalty != "polarize":
            return chosen  # a penalty on all gammas cannot aim at a budget
        return chosen | {name: getattr(self, name) for name in ("target_flops", "target_params", "round_to")}

    def goal(self) -> str:
        """Return what is pruned for, as a flag."""
        if self.percent is not None:
            return f"--percent {self.percent:g}"
        return f"--target-params {self.target_params}" if self.target_params else f"--target-flops {self.target_flops}"

    def of_pruning(self) -> dict[str, Any]:
        """Options of pruning."""
        return {name: getattr(self, name) for name in OWN["pruned"]}


def _budget_of_round(options: PipelineOptions, left: int, base: Path, present: Path) -> dict[str, str]:
    """The target, absolute, of the first of the ``left`` rounds that are to come; never more than what there is."""
    from models.loading import load_checkpoint
    from prune_tools.planning.targets import target_of
    from utils.model_info import count_parameters, gflops

    target = target_of(options, ("params", "flops"))
    assert target is not None

    def cost(checkpoint: Path) -> float:
        model = load_checkpoint(checkpoint)["model"].float()
        return float(count_parameters(model)) if target.quantity == "params" else 1e9 * (gflops(model, 640) or 0.0)

    now = cost(present)
    budget = now * (min(target.budget(cost(base)), now) / now) ** (1 / left)
    return {f"target_{target.quantity}": f"{budget / 1e6:.6f}M"}
