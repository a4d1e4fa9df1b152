#!/usr/bin/env python3
"""Train, sparsify, prune and fine-tune in one command, and compare the four models.

    python prune_tools/pipeline.py --data data/mask.yaml --weights yolov5n.pt --imgsz 320

Run the same command again after an interruption: finished steps are kept, a broken-off training is resumed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools import train_sparity
from prune_tools.train_sparity import AUTO, PENALTIES, SCOPES, SparseOptions
from utils.cli import run_command, show_arguments
from utils.config import TrainOptions, build, option, parse, to_dict
from utils.errors import InputError
from utils.files import ROOT, increment_path, make_folder, read_yaml, write_yaml
from utils.log import LOGGER, colorstr

STEPS = ("base", "sparse", "pruned", "finetuned")  # of one round; earlier rounds have steps of their own
RECORD = "pipeline.yaml"
DEFAULT_FLOPS = "0.5"
DEFAULT_ROUNDING = 8  # channels; what kernels like


@dataclass
class PipelineOptions:
    """Options of the steps together."""

    data: str = option(str(ROOT / "data/mask.yaml"), "data set YAML")
    weights: str = option("", "start from this checkpoint; '' starts from scratch with --cfg")
    cfg: str = option("", "model YAML; default: the architecture stored in --weights")
    hyp: str = option("", "hyperparameter YAML of the three trainings; default: those of the three commands")
    imgsz: int = option(320, "image size in pixels, longer side", "--img", "--img-size")
    batch_size: int = option(16, "images per batch")
    base_epochs: int = option(100, "epochs of the base model")
    sparse_epochs: int = option(50, "epochs of sparse training")
    finetune_epochs: int = option(50, "epochs of fine-tuning")
    rounds: int = option(1, "prune in so many equal steps, each with its part of the sparse and the fine-tuning epochs")
    target_flops: str = option("", "operations that remain, at 640 pixels: 2.1G, or a ratio; default: 0.5")
    target_params: str = option("", "instead: parameters that remain, such as 0.9M, or a ratio")
    percent: float | None = option(None, "instead: share of the prunable channels to remove", type=float)
    scope: str = option(
        "", "prunable channels: seed, of layers outside shortcuts, default of --percent; all, coupled ones too",
        choices=SCOPES,
    )  # fmt: skip
    round_to: int | None = option(
        None, "for the targets: round the channels that a layer keeps to multiples of this; default: 8", type=int
    )
    penalty: str = option(
        "polarize", "of sparse training: polarize pushes just the channels that will go; l1 and prox push all",
        choices=list(PENALTIES),
    )  # fmt: skip
    sr: float | None = option(None, "rate of --penalty l1 or prox; default: found out by itself", type=float)
    reconstruct: int = option(192, "training images on which the pruned layers are re-fitted; 0 = off")
    cache: str = option(
        "auto",
        "keep images in memory (ram; auto: where they fit comfortably), on disk (disk) or not (none)",
        choices=["auto", "ram", "disk", "none"],
    )  # fmt: skip
    device: str = option("", "cpu, cuda device number such as 0, or mps; default: a GPU if there is one")
    workers: int = option(8, "most data loading processes")
    seed: int = option(0, "seed of all random numbers")
    project: str = option(str(ROOT / "runs/pipeline"), "folder of the runs")
    name: str = option("exp", "name of this run; an existing one is continued")
    sweep: str = option("", "run folder of sweep.py whose curve goes into report.html")
    sensitivity: str = option("", "run folder of sensitivity.py whose figures go into report.html")

    def __post_init__(self) -> None:
        """Build the options of every step, so that a bad value stops before the first and not before the third."""
        from prune_tools.prune import PruneOptions

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
        build(PruneOptions, **self.of_pruning(), **common)
        build(SparseOptions, epochs=self.sparse_epochs, **self.of_penalty(), **common)

    def of_round(self, number: int, base: Path) -> PipelineOptions:
        """The options of round ``number``, from 1: its share of the epochs, and the goal that it has to reach.

        Costs shrink by the same factor in each round; those of the checkpoint ``base`` are where they start.
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
            goal = _budget_of_round(self, number / self.rounds, base)
        return replace(self, rounds=1, **epochs, **goal)

    def of_penalty(self) -> dict[str, Any]:
        """Options of sparse training: the channels that pruning will remove are those to bring to zero."""
        scope = self.scope or ("all" if self.percent is None else "seed")
        chosen: dict[str, Any] = {"penalty": self.penalty, "scope": scope}
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
        """What is pruned for, as a flag."""
        if self.percent is not None:
            return f"--percent {self.percent:g}"
        return f"--target-params {self.target_params}" if self.target_params else f"--target-flops {self.target_flops}"

    def of_pruning(self) -> dict[str, Any]:
        """Options of pruning."""
        return {name: getattr(self, name) for name in OWN["pruned"]}


def _budget_of_round(options: PipelineOptions, progress: float, base: Path) -> dict[str, str]:
    """The target, absolute, when the share ``progress`` of the rounds is over."""
    from models.loading import load_checkpoint
    from prune_tools.targets import target_of
    from utils.model_info import count_parameters, gflops

    model = load_checkpoint(base)["model"].float()
    target = target_of(options, ("params", "flops"))
    assert target is not None
    present = float(count_parameters(model)) if target.quantity == "params" else 1e9 * (gflops(model, 640) or 0.0)
    budget = present ** (1 - progress) * target.budget(present) ** progress
    return {f"target_{target.quantity}": f"{budget / 1e6:.6f}M"}


def steps_of(rounds: int) -> list[tuple[str, str, int]]:
    """Name, kind (one of STEPS) and round of every step; those of the last round are named by their kind alone."""
    steps = [(STEPS[0], STEPS[0], 1)]
    for number in range(1, rounds + 1):
        prefix = "" if number == rounds else f"round{number}-"
        steps += [(prefix + kind, kind, number) for kind in STEPS[1:]]
    return steps


SHARED = ("data", "hyp", "imgsz", "batch_size", "seed")  # options that every step depends on
GOAL = ("target_flops", "target_params", "percent", "scope", "round_to")
OWN = {
    "base": ("weights", "cfg", "base_epochs"),
    "sparse": ("sparse_epochs", "penalty", "sr", *GOAL),
    "pruned": (*GOAL, "reconstruct"),
    "finetuned": ("finetune_epochs",),
}


class Pipeline:
    """The steps in their folders, with a record of what each was made with and whether it is finished.

    There are four, and three more for each further round. A step is kept as long as its options and the step before it
    are the same; otherwise it and those after it are made anew in folders of their own (pruned2, ...), and nothing is
    overwritten.
    """

    def __init__(self, options: PipelineOptions) -> None:
        """Open or create the run folder and read its record."""
        self.options = options
        self.folder = make_folder(Path(options.project) / options.name).resolve()
        self.places: dict[str, Path] = {}  # folder of each step
        self.record: dict[str, Any] = {}
        if (self.folder / RECORD).is_file():
            self.record = read_yaml(self.folder / RECORD) or {}

    def run(self) -> dict[str, Path]:
        """Run what is not finished; returns the checkpoint of each step."""
        checkpoints: dict[str, Path] = {}
        before, steps = "", steps_of(self.options.rounds)
        for place, (step, kind, number) in enumerate(steps, start=1):
            entry = self._open(step, kind, before)
            self.places[step] = self.folder / entry["folder"]
            done = self.folder / entry["checkpoint"] if entry["checkpoint"] else None
            if done is not None and done.is_file():
                LOGGER.info(f"Step {place}/{len(steps)}, {step}: already finished, {done}")
            else:
                LOGGER.info(colorstr(f"\nStep {place}/{len(steps)}: {step}"))
                options = self.options.of_round(number, checkpoints["base"]) if checkpoints else self.options
                start = [*checkpoints.values()][-1] if checkpoints else Path()
                done = getattr(self, f"_{kind}")(step, options, start)
                entry["checkpoint"] = str(done.relative_to(self.folder))
                write_yaml(self.folder / RECORD, self.record)
            before, checkpoints[step] = entry["folder"], done
        return checkpoints

    def _open(self, step: str, kind: str, before: str) -> dict[str, Any]:
        """The record of a step as it is wanted now, with a folder of its own."""
        values = to_dict(self.options)
        wanted = {name: values[name] for name in (*SHARED, *OWN[kind])} | {"after": before}
        if self.options.rounds > 1 and kind != "base":
            wanted["rounds"] = self.options.rounds
        entry = self.record.get(step)
        if entry is None or entry["options"] != wanted:
            entry = {"options": wanted, "folder": increment_path(self.folder / step).name, "checkpoint": ""}
            self.record[step] = entry
            write_yaml(self.folder / RECORD, self.record)
        return entry

    def _base(self, step: str, options: PipelineOptions, _: Path) -> Path:
        import train

        keywords = {"weights": options.weights, "cfg": options.cfg, "epochs": options.base_epochs}
        return self._train(train.main, TrainOptions, step, **keywords)

    def _sparse(self, step: str, options: PipelineOptions, start: Path) -> Path:
        keywords = {"weights": str(start), "epochs": options.sparse_epochs, **options.of_penalty()}
        if options.penalty == "polarize":
            keywords["teacher"] = str(self._teacher())
        return self._train(train_sparity.main, SparseOptions, step, **keywords)

    def _pruned(self, step: str, options: PipelineOptions, start: Path) -> Path:
        from prune_tools import prune

        chosen = build(
            prune.PruneOptions, weights=[str(start)], cfg="", data=options.data,
            batch_size=options.batch_size, imgsz=options.imgsz, device=options.device, project=str(self.folder),
            name=self.places[step].name, exist_ok=True, **options.of_pruning(),
        )  # fmt: skip
        return Path(prune.main(chosen)) / "pruned_model.pt"

    def _finetuned(self, step: str, options: PipelineOptions, start: Path) -> Path:
        from prune_tools import finetune

        keywords = {"weights": str(start), "epochs": options.finetune_epochs, "teacher": str(self._teacher())}
        return self._train(finetune.main, finetune.FinetuneOptions, step, **keywords)

    def _teacher(self) -> Path:
        return self.folder / self.record["base"]["checkpoint"]

    def _train(self, command: Any, options_class: type, step: str, **keywords: Any) -> Path:
        """One training in the folder of ``step``, resumed if it was broken off; returns its best checkpoint."""
        options = self.options
        unfinished = self.places[step] / "weights/last.pt"
        common = {
            "data": options.data, "imgsz": options.imgsz, "batch_size": options.batch_size,
            "device": options.device, "workers": options.workers, "seed": options.seed, "project": str(self.folder),
            "name": self.places[step].name, "exist_ok": True,
            "cache": options.cache,
            "resume": str(unfinished) if resumable(unfinished) else False,
        }  # fmt: skip
        if options.hyp:
            common["hyp"] = options.hyp
        if command(build(options_class, **common, **keywords)) is None:
            raise InputError(f"the step {step} was stopped before its end: run the same command to continue it")
        return self.places[step] / "weights/best.pt"


def resumable(checkpoint: Path) -> bool:
    """Whether ``checkpoint`` is of a training that was broken off: it exists and still has its optimizer."""
    from models.loading import load_checkpoint

    return checkpoint.is_file() and load_checkpoint(checkpoint).get("optimizer") is not None


def main(options: PipelineOptions) -> Path:
    """Run the steps, write table.txt, .csv and .png, pictures and the report; returns the run folder."""
    from prune_tools.comparison import as_text, compare, save_csv, save_picture
    from prune_tools.pictures import draw_gammas, draw_run
    from prune_tools.pipeline_report import report_of
    from prune_tools.survey import find_surveys
    from utils.checks import check_dataset
    from utils.files import atomic_path
    from utils.labels import find_images

    show_arguments("pipeline", options)
    surveys = find_surveys(options, Path(options.project) / options.name)
    pipeline = Pipeline(options)
    checkpoints = pipeline.run()
    folder = pipeline.folder
    LOGGER.info(colorstr("\nComparing the models"))
    rows = compare(
        checkpoints, options.data, options.imgsz, folder / "comparison", batch_size=options.batch_size * 2,
        device=options.device, workers=options.workers,
    )  # fmt: skip
    text = as_text(rows)
    with atomic_path(folder / "table.txt") as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    save_csv(rows, folder / "table.csv")
    save_picture(rows, folder / "table.png")
    report = report_of(options, pipeline.places, checkpoints, rows, surveys)
    draw_gammas(report.gammas, folder / "gammas.png")
    images = find_images(check_dataset(options.data, splits=("val",))["val"])
    draw_run(checkpoints, images, options.imgsz, options.device, folder)
    shown = {step: checkpoints[step] for step in (STEPS[0], STEPS[-1])}
    report.show_detections(shown, images, options.imgsz, options.device)
    report.save(folder)
    names = "report.html and .json, table.txt, .csv and .png, gammas.png, widths.png, detections.jpg"
    LOGGER.info(f"\n{text}\n\nResults saved to {colorstr('bold', str(folder))}: {names}")
    LOGGER.info(f"The pruned detector: {checkpoints['finetuned']}")
    LOGGER.info(f"Next: python detect.py --weights {checkpoints['finetuned']} --source IMAGES --imgsz {options.imgsz}")
    return folder


def run(**keywords: Any) -> Path:
    """The pipeline from Python, the flags as keywords."""
    return main(build(PipelineOptions, **keywords))


if __name__ == "__main__":
    run_command(lambda: main(parse(PipelineOptions, "Train, sparsify, prune and fine-tune a YOLOv5 detector.")))
