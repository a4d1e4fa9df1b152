"""Options of sweep.py and sensitivity.py."""

from __future__ import annotations

from dataclasses import dataclass

from prune_tools.options import PruningOptions
from prune_tools.planning.options import DEFAULT_ROUNDING, ChannelOptions
from utils.commands.options import option, settle
from utils.errors import InputError
from utils.storage.files import WORK

FLAGS = {"channels": "percent", "params": "target_params", "flops": "target_flops"}  # of prune.py, by --by


@dataclass(frozen=True)
class SurveyOptions(ChannelOptions, PruningOptions):
    """Options of the commands that prune one model many ways and measure each."""

    images: int = option(
        0, "validation images to measure on, evenly spread over all; 0 = all", at_least=0, identity=False
    )
    runtime: str = option(
        "torch", "where the time per image is measured", choices=["torch", "onnxruntime", "openvino"], handed_on=False
    )
    batch_size: int = option(16, "images per batch", at_least=1)


@dataclass(frozen=True)
class SweepOptions(SurveyOptions):
    """Options of sweep.py."""

    ratios: list[float] = option(
        [20],
        "number of ratios from 0 to --largest, evenly spaced; or the ratios themselves",
        nargs="+",
        type=float,
        at_least=0,
        at_most=1000,
        handed_on=False,
        identity=False,
    )
    largest: float = option(
        0.95, "the largest ratio when --ratios is a number of ratios", above=0, below=1, identity=False
    )
    by: str = option("channels", "what is removed in these ratios", choices=list(FLAGS))
    tolerance: float = option(
        0.05,
        "the proposed ratio loses at most this share of the whole model's mAP50-95",
        above=0,
        below=1,
        handed_on=False,
        identity=False,
    )
    project: str = option(str(WORK / "runs/sweep"), "folder of the runs", handed_on=False, identity=False)
    name: str = option(
        "exp",
        "name of this run; continued if its options are the same, else exp2, exp3, ...",
        handed_on=False,
        identity=False,
    )

    def __post_init__(self) -> None:
        """Refuse ratios that leave nothing to sweep."""
        super().__post_init__()
        settle(self, ratios=[self.ratios] if isinstance(self.ratios, (int, float)) else list(self.ratios))
        self.grid()

    def default_scope(self) -> str:
        """The default of prune.py for the same goal."""
        return "seed" if self.by == "channels" else "all"

    def default_rounding(self) -> int:
        """The default of prune.py for the same goal."""
        return 1 if self.by == "channels" else DEFAULT_ROUNDING

    def given_rounding(self) -> int | None:
        """The step of a percentage; that of a budget depends on the weights."""
        return 1 if self.by == "channels" else None

    def grid(self) -> list[float]:
        """The ratios, ascending, 0 first. Raises InputError when there is nothing to sweep."""
        first = self.ratios[0] if self.ratios else 0.0
        if len(self.ratios) == 1 and (first >= 1 or first <= 0):
            if first != int(first) or first < 2:
                raise InputError(f"--ratios {first:g} leaves nothing to sweep: give 2 or more, or ratios such as 0.3")
            step = self.largest / (int(first) - 1)
            return [round(step * index, 4) for index in range(int(first))]
        wrong = [ratio for ratio in self.ratios if not 0 <= ratio < 1]
        if wrong or not any(self.ratios):
            raise InputError(f"--ratios are numbers of at least 0 and below 1, one of them above 0, got {self.ratios}")
        return sorted({0.0, *(round(float(ratio), 4) for ratio in self.ratios)})


@dataclass(frozen=True)
class SensitivityOptions(SurveyOptions):
    """Options of sensitivity.py."""

    ratios: list[float] = option(
        [0.5],
        "shares of a layer's channels that are removed",
        nargs="+",
        type=float,
        above=0,
        below=1,
        handed_on=False,
        identity=False,
    )
    tolerance: float = option(
        0.02,
        "layers are sensitive that lose more than this share of the whole model's mAP50-95 at the smallest ratio",
        above=0,
        below=1,
        handed_on=False,
        identity=False,
    )
    reconstruct: int = option(
        0,
        "training images on which the layers are re-fitted to the unpruned model; 0 = off",
        at_least=0,
        handed_on=False,
    )
    project: str = option(str(WORK / "runs/sensitivity"), "folder of the runs", handed_on=False, identity=False)
    name: str = option(
        "exp",
        "name of this run; continued if its options are the same, else exp2, exp3, ...",
        handed_on=False,
        identity=False,
    )

    def __post_init__(self) -> None:
        """Refuse what no analysis can use."""
        super().__post_init__()
        ratios = [self.ratios] if isinstance(self.ratios, (int, float)) else self.ratios
        settle(self, ratios=sorted({round(float(ratio), 4) for ratio in ratios}))
        if not self.ratios or not 0 < self.ratios[0] <= self.ratios[-1] < 1:
            raise InputError(f"--ratios are shares of a layer's channels between 0 and 1, got {self.ratios}")
        if self.runtime != "torch":
            raise InputError(f"--runtime {self.runtime} has no effect here: no time is measured, leave it out")
