"""The one file of all results: a line of JSON for each cell that was ever asked for, measured or not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.frontier.options import FrontierOptions
from benchmarks.frontier.tasks import Task
from prune_tools.survey.record import checkpoint_digest
from utils.checks import check_file
from utils.commands.options import identity_of
from utils.errors import InputError
from utils.storage.files import atomic_path, make_folder

FILE = "results.jsonl"
NOT_RUN = "not run yet"


class Results:
    """The results of a folder.

    Attributes:
        cells: by cell, its figures, or a ``problem`` that says why it has none.
    """

    def __init__(self, options: FrontierOptions) -> None:
        """Read what there is. Raises InputError if it was made with other options."""
        self.folder = make_folder(options.folder).resolve()
        self.file = self.folder / FILE
        self.identity = _identity(options)
        self.cells: dict[Task, dict[str, Any]] = {}
        if not self.file.is_file():
            return
        before, cells = self._read()
        for name in before.keys() & self.identity.keys():
            if before[name] != self.identity[name]:
                raise InputError(
                    f"{self.file} was made with {name}={before[name]}, asked for is {self.identity[name]}: "
                    "choose another --folder"
                )
        self.identity = before | self.identity
        self.cells = cells

    def _read(self) -> tuple[dict[str, Any], dict[Task, dict[str, Any]]]:
        """The options that all cells have in common, and the cells. Raises InputError for a damaged file."""
        try:
            head, *lines = [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]
            return dict(head["of"]), {Task(**line.pop("cell")): line for line in lines}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.file} is damaged ({error}): delete it and run the benchmark again, which takes the finished "
                "cells from their folders"
            ) from error

    def expect(self, cells: list[Task]) -> None:
        """Add cells that are to be run, and write the file."""
        for cell in cells:
            self.cells.setdefault(cell, {"problem": NOT_RUN})
        self.save()

    def put(self, cell: Task, values: dict[str, Any]) -> None:
        """Take the result of a cell, and write the file."""
        self.cells[cell] = values
        self.save()

    def is_measured(self, cell: Task) -> bool:
        """Tell whether a cell has figures."""
        return cell in self.cells and "problem" not in self.cells[cell]

    def save(self) -> None:
        """Write all lines."""
        records = [{"of": self.identity}, *({"cell": asdict(cell), **values} for cell, values in self.cells.items())]
        with atomic_path(self.file) as draft:
            draft.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _identity(options: FrontierOptions) -> dict[str, Any]:
    """Settings that all cells of a folder have in common, with the content of the start weights and the image sizes.

    For tables alone no file needs to be there, and only the image sizes are compared.
    """
    values: dict[str, Any] = {
        f"imgsz of {Path(file).stem}": options.image_size(Path(file).stem) for file in options.data
    }
    if options.table:
        return values
    values |= identity_of(options)
    unused = "weights" if options.base else "base"
    for name in {"weights", "base", "start"} - {unused}:
        file = check_file(values[name], ".pt")
        values[name] = Path(file).name
        values[f"{name} (content)"] = checkpoint_digest(file) if file else ""
    return values | {unused: ""}
