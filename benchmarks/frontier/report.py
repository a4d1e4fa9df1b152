"""The work of the command: run what is missing, then draw tables and pictures from the results."""

from __future__ import annotations

from pathlib import Path

from benchmarks.frontier.options import FrontierOptions
from benchmarks.frontier.results import Results
from benchmarks.frontier.runs import Runner, run_task, task_of
from benchmarks.frontier.tables import tables_of
from benchmarks.frontier.timing import time_cells
from utils.commands.interrupts import advising, same_command
from utils.errors import InputError
from utils.log import LOGGER, colorstr
from utils.storage.files import atomic_path, make_folder
from utils.storage.folder_lock import held_folder

TABLE = "frontier.md"
COMMON = """All cells have the same whole cost in base-epoch equivalents, or the whole epochs below it. mAP is in
percent, mean and standard deviation over the seeds. A difference is one of mAP50-95, with its interval of 95 % by a
paired bootstrap over images and seeds; it is bold where the interval excludes 0. The command of a line also has these
options, and --data, --imgsz, --seeds and --teachers of its table: `python -m benchmarks.frontier {options}`."""


def run_and_report(options: FrontierOptions) -> Path:
    """Do what the options ask for; returns the folder of the results.

    Raises:
        InputError: at the end, if a cell could not be measured; or the options do not fit the folder.
    """
    if options.only:
        run_task(options, task_of(options, options.only))
        return Path(options.folder)
    if options.table:
        results = Results(options)
        draw(results, options)
        return results.folder
    with held_folder(make_folder(options.folder)), advising(same_command):
        results = Results(options)
        runner = Runner(options, results)
        runner.run()
        if options.time:
            time_cells(results)
        draw(results, options)
    if runner.failed:
        raise InputError(f"{len(runner.failed)} tasks have no result: {results.folder / TABLE} says why")
    return results.folder


def draw(results: Results, options: FrontierOptions) -> None:
    """Write frontier.md and a picture of each table. Raises InputError without any cell."""
    if not results.cells:
        raise InputError(f"{results.file} has no cells: run the benchmark without --table first")
    words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in _settings(results).items())
    parts = ["# Accuracy against cost", COMMON.format(options=words)]
    for table in tables_of(results, options.split, options.reference):
        picture = results.folder / f"frontier-{table.data}-teacher-{table.teacher}.png"
        table.draw(picture)
        parts += [table.as_text(), f"![{table.data}]({picture.name})"]
    text = "\n\n".join(parts) + "\n"
    with atomic_path(results.folder / TABLE) as draft:
        draft.write_text(text, encoding="utf-8")
    LOGGER.info(
        f"\n{text}\nResults saved to {colorstr('bold', str(results.folder))}: {TABLE}, {results.file.name}, *.png"
    )


def _settings(results: Results) -> dict[str, str]:
    """The recorded options that all cells have in common, as words of a command line."""
    settings = {}
    for name, value in results.identity.items():
        if " " not in name and value != "":
            settings[name] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return settings
