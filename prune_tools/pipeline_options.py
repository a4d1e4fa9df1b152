"""Options of a pipeline, and what follows from them for each of its steps and rounds."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from prune_tools.channels import SCOPES
from prune_tools.options import PruneOptions
from prune_tools.planning.goals import Target, target_of
from prune_tools.planning.options import (
    DEFAULT_ROUNDING,
    LEVEL_LOSS,
    LEVEL_LOSS_HELP,
    RUNTIMES,
    TRIAL_HELP,
    TRIED,
    UNITS_HELP,
    checked_units,
)
from prune_tools.planning.options import UNITS as UNIT_NAMES
from prune_tools.sparsity.options import AUTO, PENALTIES, SparseOptions
from prune_tools.tuning.recipes import LEAST_EPOCHS, RECIPES
from utils.commands.options import (
    LARGEST_IMAGE,
    LARGEST_SEED,
    CheckedOptions,
    as_list,
    build,
    identity_of,
    option,
    settle,
)
from utils.errors import InputError, short_repr
from utils.storage.files import WORK
from utils.tracking.services import SERVICES, check_services
from utils.training.options import TrainOptions

DEFAULT_FLOPS = "0.5"
SPARSE_EPOCHS, EPOCHS_ONCE = 50, 80  # of sparse training after a base, and in its place
BASE_EPOCHS = 100
STEPS = ("base", "sparse", "pruned", "finetuned")  # of one round
UNPRUNED = STEPS[:2]

# The steps that depend on an option (see ``option``'s identity); all do where nothing else is said
BASE = ("base",)
SPARSE = ("sparse",)
UNITS = ("units",)  # between the base and the sparse training, where --units names more than channels
PRUNED = ("units", "pruned")
FINETUNED = ("finetuned",)
GOAL = ("units", "sparse", "pruned")
TAUGHT = ("sparse", "finetuned")


@dataclass(frozen=True)
class PipelineOptions(CheckedOptions):
    """Options of the steps together."""

    data: str = option("", "data set YAML; default: that of the training of --weights")
    weights: str = option(
        "", "start from this checkpoint; '' starts from scratch with --cfg", handed_on=False, identity=BASE
    )
    cfg: str = option("", "model YAML; default: the architecture stored in --weights", handed_on=False, identity=BASE)
    hyp: str = option(
        "", "hyperparameter YAML of the three trainings; default: those of the three commands", handed_on=False
    )
    augment: str = option(
        "", "your own augmentation in the three trainings: module:function or path/file.py:function, see docs/DATA.md"
    )
    imgsz: int = option(
        None, "image size in pixels, longer side; default: that of the training of --weights, else 640", "--img",
        "--img-size", type=int, at_least=1, at_most=LARGEST_IMAGE,
    )  # fmt: skip
    batch_size: int = option(16, "images per batch", at_least=1)
    once: bool = option(
        False,
        "train no base: sparse training starts from --weights, and until 60 % of its epochs the channels that it has "
        "chosen return if the loss comes to need them; then prune and fine-tune",
        identity=SPARSE,
    )
    teacher: str = option(
        "",
        "checkpoint whose outputs are soft targets of sparse training and fine-tuning, such as a larger model trained "
        "on the same data; default: the base, with --once none",
        path=True,
        handed_on=False,
        identity=TAUGHT,
    )
    base_epochs: int = option(BASE_EPOCHS, "epochs of the base model", at_least=1, identity=BASE)
    sparse_epochs: int | None = option(
        None,
        f"epochs of sparse training; default: {SPARSE_EPOCHS}, with --once {EPOCHS_ONCE}",
        type=int,
        at_least=1,
        identity=SPARSE,
    )
    finetune_epochs: int | None = option(
        None,
        "epochs of fine-tuning; default: by the share of the operations that remains, 50 for half of them, 100 for a "
        "quarter",
        type=int,
        at_least=1,
        identity=FINETUNED,
    )
    rounds: int = option(
        1,
        "prune in so many equal steps, each with its part of the sparse and the fine-tuning epochs",
        at_least=1,
        handed_on=False,
        identity=False,
    )
    target_flops: str = option(
        "", "operations that remain, at 640 pixels: 2.1G, or a ratio; default: 0.5", identity=GOAL
    )
    target_params: str = option(
        "", "alternative to --target-flops: parameters to keep (0.9M) or a ratio", identity=GOAL
    )
    percent: float | None = option(
        None,
        "alternative to --target-flops: share of the prunable channels to remove",
        type=float,
        above=0,
        below=1,
        identity=GOAL,
    )
    scope: str = option(
        "",
        "prunable channels: seed, of layers outside shortcuts, default of --percent; all, coupled ones too",
        choices=SCOPES,
        identity=GOAL,
    )
    units: list[str] = option(
        ["channels"],
        UNITS_HELP + "They go before the sparse training, within the same budget",
        nargs="+",
        choices=UNIT_NAMES,
        handed_on=False,
        identity=UNITS,
    )
    allow_level_loss: float = option(
        LEVEL_LOSS, LEVEL_LOSS_HELP, at_least=0, at_most=1, handed_on=False, identity=UNITS
    )
    skip: list[str] = option([], "leave these layers whole: module paths, wildcards allowed", nargs="+", identity=GOAL)
    round_to: int | None = option(
        None,
        "for the targets: round the channels that a layer keeps to multiples of this; default: what a trial in "
        "--runtime finds, else 8",
        type=int,
        at_least=1,
        identity=GOAL,
    )
    runtime: str = option(
        RUNTIMES[0],
        f"where the times of the tables are measured; {TRIAL_HELP}",
        choices=RUNTIMES,
        handed_on=False,
        identity=False,
    )
    penalty: str = option(
        "polarize",
        "of sparse training: polarize pushes only the channels that will be removed; l1 and prox push all",
        choices=list(PENALTIES),
        identity=SPARSE,
    )
    sr: float | None = option(
        None,
        "rate of --penalty l1 or prox; default: set automatically",
        type=float,
        at_least=0,
        at_most=1000,
        identity=SPARSE,
    )
    max_map_loss: float | None = option(
        None,
        "sparse training pauses the penalty while mAP50 is more than this below the base's; default: 0.03",
        type=float,
        at_least=0,
        at_most=1,
        identity=SPARSE,
    )
    reconstruct: int = option(
        192,
        "training images on which the pruned layers are re-fitted; 0 = off",
        at_least=0,
        handed_on=False,
        identity=PRUNED,
    )
    recipe: str = option(
        "",
        "schedule of fine-tuning; default: gentle, short where pruning has cost more than a twentieth of the "
        "base's mAP50, v6.2 with a --hyp of your own",
        choices=list(RECIPES),
        handed_on=False,
        identity=FINETUNED,
    )
    single_cls: bool = option(False, "treat all classes as one")
    cache: str = option(
        "auto",
        "keep images in memory (ram; auto: where they fit comfortably), on disk (disk) or not (none)",
        choices=["auto", "ram", "disk", "none"],
        identity=False,
    )
    device: str = option(
        "", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one", identity=False
    )
    workers: int = option(8, "most data loading processes", at_least=0, identity=False)
    logger: list[str] = option(
        [], "also record the steps by these services, as runs of one group", nargs="+", choices=list(SERVICES),
        identity=False,
    )  # fmt: skip
    seed: int = option(0, "seed of all random numbers", at_least=0, at_most=LARGEST_SEED)
    project: str = option(str(WORK / "runs/pipeline"), "folder of the runs", handed_on=False, identity=False)
    name: str = option("exp", "name of this run; an existing one is continued", handed_on=False, identity=False)
    sweep: str = option("", "run folder of sweep.py whose curve goes into report.html", handed_on=False, identity=False)
    sensitivity: str = option(
        "", "run folder of sensitivity.py whose figures go into report.html", handed_on=False, identity=False
    )

    def __post_init__(self) -> None:
        """Build the options of every step, so that a bad value stops before the first and not before the third."""
        super().__post_init__()
        settle(self, skip=as_list(self.skip), logger=as_list(self.logger))
        if self.sparse_epochs is None:
            settle(self, sparse_epochs=EPOCHS_ONCE if self.once else SPARSE_EPOCHS)
        if self.once:
            self._check_once()
        if self.percent is None and not self.target_params and not self.target_flops:
            settle(self, target_flops=DEFAULT_FLOPS)
        if self.percent is not None and self.round_to not in (None, 1):
            raise InputError(f"--round-to {self.round_to} is for --target-flops and --target-params: leave it out")
        if self.round_to is None and (self.percent is not None or self.runtime not in TRIED):
            settle(self, round_to=DEFAULT_ROUNDING if self.percent is None else 1)
        self._check_units()
        sparse, tuning = self.sparse_epochs or SPARSE_EPOCHS, self.finetune_epochs or LEAST_EPOCHS
        if self.rounds > min(sparse, tuning):
            raise InputError(
                f"--rounds must be at most --sparse-epochs ({sparse}) and --finetune-epochs ({tuning}), got "
                f"{self.rounds}: each round trains for an epoch or more"
            )
        common = {"batch_size": self.batch_size}
        check_services(self.logger)
        for epochs in (self.base_epochs, tuning):
            build(TrainOptions, epochs=epochs, **common)
        if self.recipe not in ("", *RECIPES):
            raise InputError(f"unknown --recipe {short_repr(self.recipe)}: choose one of {', '.join(RECIPES)}")
        build(PruneOptions, **self.of_pruning(), **common)
        build(SparseOptions, epochs=self.sparse_epochs, **self.of_penalty(), **common)

    def _check_units(self) -> None:
        """Raise InputError for units that cannot be removed before the sparse training."""
        settle(self, units=checked_units(self.units, self.allow_level_loss))
        if "channels" not in self.units:
            raise InputError("--units of a pipeline are channels and others: add channels, or use prune_tools/prune.py")
        if not self.removes_rows:
            return
        if self.once or self.skip:
            reason = "trains no base to judge by" if self.once else "names layers, which move when others go"
            raise InputError(f"{'--once' if self.once else '--skip'} {reason}: leave it out, or --units")
        build(PruneOptions, **self.of_units())

    @property
    def removes_rows(self) -> bool:
        """True if units above channels may be removed."""
        return len(self.units) > 1

    def _check_once(self) -> None:
        """Raise InputError for what a training without a base cannot do."""
        refused = {
            "--rounds": self.rounds > 1,
            "--base-epochs": self.base_epochs != BASE_EPOCHS,
            "--penalty l1 or prox": self.penalty != "polarize",
        }
        for flag, given in refused.items():
            if given:
                raise InputError(f"--once trains no base, and its sparse training polarizes once: leave {flag} out")

    def target(self) -> Target | None:
        """The budget; None when a percentage counts."""
        return target_of(self, ("params", "flops"))

    def of_round(self, number: int, target: Target | None = None) -> PipelineOptions:
        """The options of round ``number``, from 1: its share of the epochs, and its goal.

        In each round the channels shrink by the same factor, or the round has a ``target`` of its own.
        """
        if self.rounds == 1 and target is None:
            return self
        changes: dict[str, Any] = {"rounds": 1}
        for name in ("sparse_epochs", "finetune_epochs"):
            epochs = getattr(self, name)
            changes[name] = epochs * number // self.rounds - epochs * (number - 1) // self.rounds
        if self.percent is not None:
            changes["percent"] = 1 - (1 - self.percent) ** (1 / self.rounds)
        elif target is not None:
            changes[f"target_{target.quantity}"] = str(target)
        return replace(self, **changes)

    def of_penalty(self) -> dict[str, Any]:
        """Options of sparse training: the channels to bring to zero are those that pruning will remove."""
        scope = self.scope or ("all" if self.percent is None else "seed")
        options: dict[str, Any] = {"penalty": self.penalty, "scope": scope, "skip": self.skip}
        options |= {"max_map_loss": self.max_map_loss, "reversible": self.once}
        if self.penalty != "polarize":
            options["sr"] = AUTO if self.sr is None else self.sr
        elif self.sr is not None:
            raise InputError(f"--sr {self.sr:g} is a rate of --penalty l1 or prox: polarize takes none")
        if self.percent is not None:
            return options | {"target_share": self.percent}
        if self.penalty != "polarize":
            return options  # a penalty on all gammas cannot aim at a budget
        return options | {name: getattr(self, name) for name in ("target_flops", "target_params", "round_to")}

    def goal(self) -> str:
        """The goal of the pruning, as a flag with its value."""
        if self.percent is not None:
            return f"--percent {self.percent:g}"
        return f"--target-params {self.target_params}" if self.target_params else f"--target-flops {self.target_flops}"

    def of_pruning(self) -> dict[str, Any]:
        """Options of pruning: those that only some steps depend on, pruning among them."""
        names = {field.name for field in fields(self) if field.metadata["identity"] is not True}
        return {name: value for name, value in identity_of(self, "pruned").items() if name in names}

    def of_units(self) -> dict[str, Any]:
        """Options of the pruning that removes the units above channels."""
        goal = {name: value for name, value in self.of_pruning().items() if name != "percent"}
        others = [unit for unit in self.units if unit != "channels"]
        return goal | {"units": others, "allow_level_loss": self.allow_level_loss}
