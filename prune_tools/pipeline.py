#!/usr/bin/env python3
"""Train, sparsify, prune and fine-tune in one command, and compare the models.

    python prune_tools/pipeline.py --data data/mask.yaml --weights yolov5n.pt --imgsz 320

Run the same command again after an interruption: finished steps are kept, a broken-off training is resumed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prune_tools import train_sparity
from prune_tools.pipeline_options import OWN, SHARED, PipelineOptions
from prune_tools.train_sparity import SparseOptions
from prune_tools.tuning.recipes import recipe_after
from utils.commands.cli import run_command, show_arguments
from utils.commands.interrupts import advising, same_command
from utils.commands.next_steps import following, log_next
from utils.commands.options import build, parse, to_dict
from utils.errors import InputError, short_repr
from utils.log import LOGGER, colorstr
from utils.storage.files import increment_path, make_folder, read_yaml_mapping, write_yaml
from utils.storage.folder_lock import held_folder
from utils.training.options import TrainOptions

STEPS = ("base", "sparse", "pruned", "finetuned")  # of one round; earlier rounds have steps of their own
RECORD = "pipeline.yaml"


def steps_of(rounds: int) -> list[tuple[str, str, int]]:
    """Name, kind (one of STEPS) and round of every step; those of the last round are named by their kind alone."""
    steps = [(STEPS[0], STEPS[0], 1)]
    for number in range(1, rounds + 1):
        prefix = "" if number == rounds else f"round{number}-"
        steps += [(prefix + kind, kind, number) for kind in STEPS[1:]]
    return steps


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
            self.record = read_yaml_mapping(self.folder / RECORD)
            self._check_record()

    def _check_record(self) -> None:
        """Raise InputError when the record is damaged, or names a folder or a checkpoint outside the run folder."""
        for step, entry in self.record.items():
            sound = isinstance(entry, dict) and isinstance(entry.get("options"), dict)
            names = [entry.get("folder"), entry.get("checkpoint")] if sound else [None]
            for name in names:
                inside = isinstance(name, str) and (self.folder / name).resolve().is_relative_to(self.folder)
                if not inside or not entry["folder"]:
                    raise InputError(
                        f"{self.folder / RECORD} is damaged at {short_repr(step)}: delete the lines of this step, "
                        "which is then made anew, or choose another --name"
                    )

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
                start = [*checkpoints.values()][-1] if checkpoints else Path()
                options = self.options.of_round(number, checkpoints["base"], start) if checkpoints else self.options
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
        if entry is None or {"single_cls": False, **entry["options"]} != wanted:  # earlier versions had no such option
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
            name=self.places[step].name, exist_ok=True, single_cls=options.single_cls, **options.of_pruning(),
        )  # fmt: skip
        return Path(prune.main(chosen)) / "pruned_model.pt"

    def _finetuned(self, step: str, options: PipelineOptions, start: Path) -> Path:
        from prune_tools import finetune

        keywords = {"weights": str(start), "epochs": options.finetune_epochs, "teacher": str(self._teacher())}
        keywords["recipe"] = options.recipe or ("" if options.hyp else self._recipe(start.parent))
        return self._train(finetune.main, finetune.FinetuneOptions, step, **keywords)

    def _recipe(self, pruned: Path) -> str:
        """The recipe for the model in the folder ``pruned``, by what it has kept of the base's accuracy."""
        import val

        options = self.options
        figures = json.loads((pruned / "report.json").read_text(encoding="utf-8"))
        (_, _, before, *_), _, _ = val.run(
            options.data, str(self._teacher()), imgsz=options.imgsz, batch_size=options.batch_size * 2, plots=False,
            device=options.device, workers=options.workers, single_cls=options.single_cls,
        )  # fmt: skip
        return recipe_after(figures["steps"][-1]["map50"], before)

    def _teacher(self) -> Path:
        return self.folder / self.record["base"]["checkpoint"]

    def _train(self, command: Any, options_class: type, step: str, **keywords: Any) -> Path:
        """One training in the folder of ``step``, resumed if it was broken off; returns its best checkpoint."""
        options = self.options
        unfinished, best = self.places[step] / "weights/last.pt", self.places[step] / "weights/best.pt"
        if unfinished.is_file() and not resumable(unfinished):  # the training ended, and its record was not written
            return best
        common = {
            "data": options.data, "imgsz": options.imgsz, "batch_size": options.batch_size,
            "device": options.device, "workers": options.workers, "seed": options.seed, "project": str(self.folder),
            "name": self.places[step].name, "exist_ok": True, "single_cls": options.single_cls,
            "cache": options.cache,
            "resume": str(unfinished) if resumable(unfinished) else False,
        }  # fmt: skip
        if options.hyp:
            common["hyp"] = options.hyp
        if command(build(options_class, **common, **keywords)) is None:
            raise InputError(f"the step {step} was stopped before its end: run the same command to continue it")
        return best


def resumable(checkpoint: Path) -> bool:
    """Tell whether ``checkpoint`` is of a training that was broken off: it exists and still has its optimizer."""
    from models.loading import load_checkpoint

    return checkpoint.is_file() and load_checkpoint(checkpoint).get("optimizer") is not None


def main(options: PipelineOptions) -> Path:
    """Run the steps, write table.txt, .csv and .png, pictures and the report; returns the run folder."""
    from prune_tools.survey.record import find_surveys

    show_arguments("pipeline", options)
    surveys = find_surveys(options, Path(options.project) / options.name)
    with held_folder(make_folder(Path(options.project) / options.name)), advising(same_command):
        return _run_and_report(options, surveys)


def _run_and_report(options: PipelineOptions, surveys: dict[str, dict[str, Any]]) -> Path:
    from detect import DetectOptions
    from export import ExportOptions
    from prune_tools.pipeline_report import report_of
    from prune_tools.report.pictures import draw_gammas, draw_run
    from prune_tools.report.table import as_text, compare, save_csv, save_picture
    from prune_tools.survey.record import surveys_of
    from utils.checks import check_dataset
    from utils.dataset.labels import find_images
    from utils.storage.files import atomic_path

    pipeline = Pipeline(options)
    checkpoints = pipeline.run()
    folder = pipeline.folder
    LOGGER.info(colorstr("\nComparing the models"))
    rows = compare(
        checkpoints, options.data, options.imgsz, folder / "comparison", batch_size=options.batch_size * 2,
        device=options.device, workers=options.workers, single_cls=options.single_cls,
    )  # fmt: skip
    text = as_text(rows)
    with atomic_path(folder / "table.txt") as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    save_csv(rows, folder / "table.csv")
    save_picture(rows, folder / "table.png")
    surveys = surveys_of(surveys, [checkpoints["base"], checkpoints["sparse"]])
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
    weights = str(checkpoints["finetuned"])
    log_next(
        following("detect.py", DetectOptions, options, weights=weights, source="IMAGES"),
        following("export.py", ExportOptions, options, weights=weights, include=["onnx"]),
    )
    return folder


def run(**keywords: Any) -> Path:
    """The pipeline from Python, the flags as keywords."""
    return main(build(PipelineOptions, **keywords))


if __name__ == "__main__":
    run_command(lambda: main(parse(PipelineOptions, "Train, sparsify, prune and fine-tune a YOLOv5 detector.")))
