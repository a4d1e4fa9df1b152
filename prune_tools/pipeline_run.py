"""The work of pipeline.py: train, sparsify, prune and fine-tune, continue what was interrupted, compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import train
import val
from detect import DetectOptions
from export import ExportOptions
from models.loading import attempt_load, load_checkpoint, read_record, with_record_of
from prune_tools import finetune, prune, rounding, train_sparity
from prune_tools.forecast import log_forecast, start_model, with_epochs
from prune_tools.options import PruneOptions
from prune_tools.pipeline_options import STEPS, UNPRUNED, PipelineOptions
from prune_tools.pipeline_report import report_of
from prune_tools.pipeline_tracking import record_comparison, record_pruning
from prune_tools.planning.costs import cost_of
from prune_tools.planning.goals import Target
from prune_tools.planning.latency import prepare, time_calls
from prune_tools.report.pictures import draw_gammas, draw_run
from prune_tools.report.table import Row, as_text, best_model, row_of, save_csv, save_picture, tuning_verdict
from prune_tools.sparsity.options import SparseOptions
from prune_tools.survey.record import Surveys, find_surveys, surveys_of
from prune_tools.tuning.options import NO_TEACHER, FinetuneOptions
from prune_tools.tuning.recipes import recipe_after
from utils.commands.interrupts import advising, same_command
from utils.commands.next_steps import following, handed_on, log_next, no_proposals
from utils.commands.options import build, identity_of
from utils.dataset.description import check_dataset
from utils.dataset.labels import find_images
from utils.device import select_device
from utils.errors import InputError, short_repr
from utils.log import LOGGER, colorstr
from utils.storage.files import atomic_path, increment_path, make_folder, read_yaml_mapping, write_yaml
from utils.storage.folder_lock import held_folder
from utils.tracking.recording import grouped
from utils.training.options import TrainOptions
from utils.training_record import recorded_fields

RECORD = "pipeline.yaml"
# Options that records of earlier versions lack
ADDED_LATER = {"single_cls": False, "augment": "", "once": False, "teacher": ""}


@dataclass(frozen=True)
class Step:
    """One step of a pipeline: its name in tables, what it does (one of STEPS), and its round, from 1."""

    name: str
    work: str
    round: int


def steps_of(rounds: int, once: bool = False, units: bool = False) -> list[Step]:
    """All steps: one for the base, not if it is trained ``once``, one for ``units``, and three for each round.

    Those of the last round are named by their work alone.
    """
    steps = [] if once else [Step(STEPS[0], STEPS[0], 1)]
    steps += [Step("units", "units", 1)] if units else []
    for number in range(1, rounds + 1):
        prefix = "" if number == rounds else f"round{number}-"
        steps += [Step(prefix + work, work, number) for work in STEPS[1:]]
    return steps


class Pipeline:
    """The steps in their folders, with a record of the options of each and of the finished checkpoints.

    A step is kept as long as its options and the step before it are the same; otherwise it and those after it are
    repeated in new folders (pruned2, ...). Nothing is overwritten.

    Attributes:
        options: of the whole pipeline.
        folder: the run folder.
        folders: by name of the step.
        record: the content of pipeline.yaml: by name of the step, its options, folder and checkpoint.
    """

    def __init__(self, options: PipelineOptions) -> None:
        """Open or create the run folder and read its record."""
        self.options = options
        self.folder = make_folder(Path(options.project) / options.name).resolve()
        self.folders: dict[str, Path] = {}
        self.record: dict[str, Any] = {}
        if (self.folder / RECORD).is_file():
            self.record = read_yaml_mapping(self.folder / RECORD)
            self._check_record()

    def _check_record(self) -> None:
        """Raise InputError if the record is damaged, or names a folder or a checkpoint outside the run folder."""
        for step, recorded in self.record.items():
            if not self._is_sound(recorded):
                raise InputError(
                    f"{self.folder / RECORD} is damaged at {short_repr(step)}: delete the lines of this step, "
                    "which is then repeated, or choose another --name"
                )

    def _is_sound(self, recorded: Any) -> bool:
        """Tell whether the record of a step has its entries, and its paths lie in the run folder."""
        if (
            not isinstance(recorded, dict)
            or not isinstance(recorded.get("options"), dict)
            or not recorded.get("folder")
        ):
            return False
        paths = [recorded["folder"], recorded.get("checkpoint")]
        return all(
            isinstance(path, str) and (self.folder / path).resolve().is_relative_to(self.folder) for path in paths
        )

    def run(self) -> dict[str, Path]:
        """Run what is not finished; returns the checkpoint of each step."""
        checkpoints: dict[str, Path] = {}
        before, steps = "", steps_of(self.options.rounds, self.options.once, self.options.removes_rows)
        start = Path()  # the checkpoint of the step before
        for number, step in enumerate(steps, start=1):
            recorded = self._open(step, before)
            self.folders[step.name] = self.folder / recorded["folder"]
            done = self.folder / recorded["checkpoint"] if recorded["checkpoint"] else None
            if done is not None and done.is_file():
                LOGGER.info(f"Step {number}/{len(steps)}, {step.name}: already finished, {done}")
            else:
                LOGGER.info(colorstr(f"\nStep {number}/{len(steps)}: {step.name}"))
                with no_proposals():
                    done = self._make(step, start)
                recorded["checkpoint"] = str(done.relative_to(self.folder))
                write_yaml(self.folder / RECORD, self.record)
            before, start, checkpoints[step.name] = recorded["folder"], done, done
        return checkpoints

    def _open(self, step: Step, before: str) -> dict[str, Any]:
        """The record of a step with the present options, new if it was made with others; ``before``: a folder."""
        options = identity_of(self.options, step.work) | {"after": before}
        if self.options.rounds > 1 and step.work != "base":
            options["rounds"] = self.options.rounds
        if self.options.once and step.work == "sparse":
            options |= {"weights": self.options.weights, "cfg": self.options.cfg}
        recorded = self.record.get(step.name)
        if recorded is None or {**ADDED_LATER, **recorded["options"]} != {**ADDED_LATER, **options}:
            recorded = {"options": options, "folder": increment_path(self.folder / step.name).name, "checkpoint": ""}
            self.record[step.name] = recorded
            write_yaml(self.folder / RECORD, self.record)
        return recorded

    def _make(self, step: Step, start: Path) -> Path:
        """Run one step from the checkpoint ``start``; returns its own."""
        if step.work == "base":
            return self._base(step.name)
        if step.work == "units":
            return self._without_units(step.name, start)
        target = target_of_round(self.options, step.round, self._unpruned(), start)
        options = self.options.of_round(step.round, target)
        if step.work == "sparse":
            return self._sparse(step.name, options, start)
        if step.work == "pruned":
            return self._pruned(step.name, options.of_pruning(), start)
        return self._finetuned(step.name, options, start)

    def _base(self, step: str) -> Path:
        options = self.options
        keywords = {"weights": options.weights, "cfg": options.cfg, "epochs": options.base_epochs}
        return self._train(train.main, TrainOptions, step, **keywords)

    def _without_units(self, step: str, start: Path) -> Path:
        reduced = self._pruned(step, self.options.of_units(), start)
        target = self.options.target()
        if target is not None and _cost(target.quantity, reduced) <= target.budget(_cost(target.quantity, start)):
            raise InputError(
                f"{reduced} is within {self.options.goal()} without fewer channels: fine-tune it "
                "(prune_tools/finetune.py), or give a smaller target"
            )
        return reduced

    def _sparse(self, step: str, options: PipelineOptions, start: Path) -> Path:
        keywords = {"weights": str(start), "epochs": options.sparse_epochs, **options.of_penalty()}
        if options.once:
            keywords |= {"weights": options.weights, "cfg": options.cfg}
        if options.penalty == "polarize":
            keywords["teacher"] = self._teacher() or NO_TEACHER
        return self._train(train_sparity.main, SparseOptions, step, **keywords)

    def _pruned(self, step: str, pruning: Mapping[str, Any], start: Path) -> Path:
        options = self.options
        prune_options = build(
            PruneOptions,
            weights=[str(start)],
            cfg="",
            data=options.data,
            batch_size=options.batch_size,
            imgsz=options.imgsz,
            device=options.device,
            project=str(self.folder),
            name=self.folders[step].name,
            exist_ok=True,
            single_cls=options.single_cls,
            runtime=options.runtime,
            **pruning,
        )
        folder = Path(prune.main(prune_options))
        record_pruning(self.options.logger, prune_options, folder)
        return folder / "pruned_model.pt"

    def _finetuned(self, step: str, options: PipelineOptions, start: Path) -> Path:
        keywords = {"weights": str(start), "epochs": options.finetune_epochs, "teacher": self._teacher()}
        keywords["recipe"] = options.recipe or ("" if options.hyp else self._recipe(start.parent))
        return self._train(finetune.main, FinetuneOptions, step, **keywords)

    def _recipe(self, pruned: Path) -> str:
        """The recipe for the model in the folder ``pruned``, by the share of the base's mAP50 that it has kept.

        Without a base, by the share of that of the sparse model.
        """
        figures = json.loads((pruned / "report.json").read_text(encoding="utf-8"))
        metrics = validate(self._unpruned(), self.options)
        return recipe_after(figures["steps"][-1]["map50"], metrics[2])

    def _unpruned(self) -> Path:
        """The checkpoint of the first step, the base if there is one; empty before it exists."""
        first = steps_of(self.options.rounds, self.options.once)[0]
        checkpoint = self.record[first.name]["checkpoint"]
        return self.folder / checkpoint if checkpoint else Path()

    def _teacher(self) -> str:
        """The checkpoint that teaches: the one given, else the base's; '' for none."""
        return self.options.teacher or ("" if self.options.once else str(self._unpruned()))

    def _train(self, command: Any, options_class: type, step: str, **keywords: Any) -> Path:
        """One training in the folder of ``step``, resumed if it was interrupted; returns its best checkpoint."""
        options = self.options
        unfinished, best = self.folders[step] / "weights/last.pt", self.folders[step] / "weights/best.pt"
        if unfinished.is_file() and not resumable(unfinished):  # the training ended, and its record was not written
            return best
        common = handed_on(options, TrainOptions)  # what all steps have in common: data, sizes, device, seed ...
        common |= {"project": str(self.folder), "name": self.folders[step].name, "exist_ok": True}
        common["resume"] = str(unfinished) if resumable(unfinished) else False
        if options.hyp:
            common["hyp"] = options.hyp
        if command(build(options_class, **common, **keywords)) is None:
            raise InputError(f"the step {step} was stopped before its end: run the same command to continue it")
        return best


def resumable(checkpoint: Path) -> bool:
    """Tell whether ``checkpoint`` is of an interrupted training: it exists and still has its optimizer."""
    return checkpoint.is_file() and load_checkpoint(checkpoint).get("optimizer") is not None


def target_of_round(options: PipelineOptions, number: int, base: Path, present: Path) -> Target | None:
    """The absolute target of round ``number``; None without a budget, or where that of the options says the same.

    From the cost of ``present``, the checkpoint that the round starts from, the network shrinks by the same factor in
    this and all later rounds; ratios are of the cost of ``base``.
    """
    target = options.target()
    if options.percent is not None or target is None or (options.rounds == 1 and not options.removes_rows):
        return None
    now = _cost(target.quantity, present)
    goal = min(target.budget(_cost(target.quantity, base)), now)  # never more than there is
    rounds_left = options.rounds - number + 1
    return Target(target.quantity, now * (goal / now) ** (1 / rounds_left), relative=False)


def _cost(quantity: str, checkpoint: Path) -> float:
    """Parameters or operations of the model of a checkpoint."""
    return cost_of(quantity, load_checkpoint(checkpoint)["model"].float())


def validate(checkpoint: Path, options: PipelineOptions, **keywords: Any) -> Sequence[float]:
    """P, R, mAP50, mAP50-95 and the losses of a checkpoint."""
    metrics, _, _ = val.run(
        options.data,
        str(checkpoint),
        imgsz=options.imgsz,
        batch_size=options.batch_size * 2,
        device=options.device,
        workers=options.workers,
        single_cls=options.single_cls,
        plots=False,
        **keywords,
    )
    return metrics


def compare(checkpoints: Mapping[str, Path], options: PipelineOptions, folder: Path) -> list[Row]:
    """Validate and time each checkpoint; returns the rows of the table."""
    device = select_device(options.device)
    models = {step: attempt_load(file, device, fuse=False) for step, file in checkpoints.items()}
    times = time_calls({step: prepare(model, options.imgsz, options.runtime) for step, model in models.items()})
    rows = []
    for step, file in checkpoints.items():
        metrics = validate(file, options, save_dir=folder / step)
        rows.append(row_of(step, models[step], metrics, times[step], str(file)))
    return rows


def pipeline_run(options: PipelineOptions) -> Path:
    """Run the steps, write table, pictures and report; returns the run folder."""
    run_folder = Path(options.project) / options.name
    surveys = find_surveys(options, run_folder)
    options = with_record_of(options.weights, options)
    with held_folder(make_folder(run_folder)), advising(same_command), grouped(run_folder):
        options = rounding.of_pipeline(options, run_folder / RECORD)
        return _run_and_report(options, surveys)


def _run_and_report(options: PipelineOptions, surveys: Surveys) -> Path:
    model = start_model(options)
    options = with_epochs(options, model)
    pipeline = Pipeline(options)
    if not pipeline.record:
        log_forecast(options, model)
    del model
    checkpoints = pipeline.run()
    folder = pipeline.folder
    LOGGER.info(colorstr("\nComparing the models"))
    rows = compare(checkpoints, options, folder / "comparison")
    text = as_text(rows)
    with atomic_path(folder / "table.txt") as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    save_csv(rows, folder / "table.csv")
    save_picture(rows, folder / "table.png")
    surveys = surveys_of(surveys, [checkpoints[step] for step in UNPRUNED if step in checkpoints])
    report = report_of(options, pipeline.folders, checkpoints, rows, surveys)
    draw_gammas(report.gammas, folder / "gammas.png")
    images = find_images(check_dataset(options.data, splits=("val",))["val"])
    same_rows = {step: file for step, file in checkpoints.items() if step != STEPS[0] or "units" not in checkpoints}
    draw_run(same_rows, images, options.imgsz, options.device, folder)
    shown = {step: checkpoints[step] for step in (next(iter(checkpoints)), STEPS[-1])}
    report.show_detections(shown, images, options.imgsz, options.device)
    report.save(folder)
    record_comparison(options, rows, folder)
    names = "report.html and .json, table.txt, .csv and .png, gammas.png, widths.png, detections.jpg"
    LOGGER.info(f"\n{text}\n\nResults saved to {colorstr('bold', str(folder))}: {names}")
    verdict, weights = tuning_verdict(rows), best_model(rows).weights
    if verdict:
        LOGGER.warning(f"WARNING: {verdict}")
    LOGGER.info(f"The pruned detector: {weights}")
    recorded = recorded_fields(read_record(weights), options)
    log_next(
        following("export.py", ExportOptions, options, recorded=recorded, weights=weights, include=["onnx"]),
        following("detect.py", DetectOptions, options, recorded=recorded, weights=weights),
    )
    return folder
