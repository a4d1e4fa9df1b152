"""Options of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.frontier.methods import DEFAULT_METHODS, METHODS, NEEDS_START, NEEDS_WEIGHTS, OURS, VARIANTS
from prune_tools.tuning.recipes import RECIPES
from utils.commands.options import LARGEST_IMAGE, LARGEST_SEED, CheckedOptions, option
from utils.errors import InputError
from utils.storage.files import ROOT

TEACHERS = ("none", "all")
SPLITS = ("val", "test", "val+test")


@dataclass(frozen=True)
class FrontierOptions(CheckedOptions):
    """Options of the benchmark. Those with ``identity`` are the same for all cells of one folder."""

    data: list[str] = option([str(ROOT / "data/mask_demo.yaml")], "data set YAML files", nargs="+", identity=False)
    imgsz: list[int] = option(
        [320], "image size in pixels: one for all data sets, or one for each", nargs="+", at_least=32,
        at_most=LARGEST_IMAGE, identity=False,
    )  # fmt: skip
    methods: list[str] = option(
        list(DEFAULT_METHODS), "methods to compare", nargs="+", choices=list(METHODS), identity=False
    )
    budgets: list[float] = option(
        [0.75, 0.5, 0.3], "shares of the base's operations to keep", nargs="+", above=0, below=1, identity=False
    )
    seeds: list[int] = option(
        [1, 2, 3], "seeds of initialisation, order and augmentation", nargs="+", at_least=0, at_most=LARGEST_SEED,
        identity=False,
    )  # fmt: skip
    teachers: list[str] = option(
        list(TEACHERS), "teacher for none or all of the methods: one table each", nargs="+", choices=TEACHERS,
        identity=False,
    )  # fmt: skip
    weights: str = option(str(ROOT / "yolov5n.pt"), "released weights, from which the base of each seed is trained")
    base: str = option("", "trained base for all seeds, instead of training one; --base-epochs are still charged")
    start: str = option("", f"larger released weights, for {NEEDS_START}")
    base_epochs: int = option(50, "epochs of the base, part of the cost of what starts from it", at_least=1)
    cost: float = option(
        150.0, "whole cost of every cell in base-epoch equivalents, the base included", above=0, at_most=1e6
    )
    sparse_share: float = option(
        0.5, "share of the cost after the base that sparse training takes, where a method has one", above=0, below=1
    )
    base_recipe: str = option("v6.2", "recipe of the base", choices=list(RECIPES))
    recipes: list[str] = option(
        ["gentle", "short", "v6.2"], "recipes that every method tries; val decides", nargs="+", choices=list(RECIPES)
    )
    rates: list[float] = option(
        [1.0], "factors of each recipe's learning rate that every method tries", nargs="+", above=0, at_most=1000
    )
    sr: float = option(0.0005, "penalty rate of the L1-sparse model", above=0, at_most=1000)
    variants: list[str] = option(
        list(VARIANTS), "importances of Torch-Pruning to try; val decides", nargs="+", choices=VARIANTS
    )
    refit_images: int = option(192, "training images on which layers are re-fitted", at_least=1)
    batch_size: int = option(16, "images per batch", at_least=1)
    workers: int = option(2, "most data loading processes of each job", at_least=0, identity=False)
    device: str = option("", "cpu, cuda device number such as 0, or mps; of all jobs", identity=False)
    jobs: int = option(1, "cells that run side by side", at_least=1, identity=False)
    folder: str = option(str(ROOT / "runs/frontier"), "folder of all results", identity=False)
    table: bool = option(False, "run nothing: draw tables and pictures from the results that there are", identity=False)
    time: bool = option(False, "time the networks in turns, one thread, when nothing else runs", identity=False)
    split: str = option("test", "split of the tables; val where a set has no test", choices=SPLITS, identity=False)
    reference: str = option(OURS, "method that differences are taken from", choices=list(METHODS), identity=False)
    only: str = option("", "run this one task alone; how jobs are started", identity=False)

    def __post_init__(self) -> None:
        """Refuse what no comparison can use."""
        super().__post_init__()
        stems = [Path(file).stem for file in self.data]
        if len(set(stems)) < len(stems):
            raise InputError(f"--data names files of the same name ({', '.join(stems)}): rename one of them")
        if len(self.imgsz) not in (1, len(self.data)):
            raise InputError(
                f"--imgsz has {len(self.imgsz)} values for {len(self.data)} data sets: give one, or one each"
            )
        if self.base and len(self.data) > 1:
            raise InputError("--base is trained on one data set: give a single --data, or leave --base out")
        if self.base and NEEDS_WEIGHTS in self.methods:
            raise InputError(
                f"{NEEDS_WEIGHTS} starts from --weights, as the base does: leave --base or {NEEDS_WEIGHTS} out"
            )
        if NEEDS_START in self.methods and not self.start:
            raise InputError(f"{NEEDS_START} starts from larger weights: name them with --start")
        if self.base_epochs >= self.cost:
            raise InputError(
                f"--base-epochs {self.base_epochs} leave nothing of --cost {self.cost:g}, which includes them: "
                "raise --cost"
            )

    def _index(self, stem: str) -> int:
        """The position of a data set among --data."""
        return [Path(file).stem for file in self.data].index(stem)

    def data_file(self, stem: str) -> str:
        """The YAML file of the data set of this name."""
        return self.data[self._index(stem)]

    def image_size(self, stem: str) -> int:
        """The image size of one of the data sets, in pixels."""
        return self.imgsz[self._index(stem) if len(self.imgsz) > 1 else 0]
