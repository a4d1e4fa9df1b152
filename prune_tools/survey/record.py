"""The record of a survey, its measured points in a JSON file; and finding the records of a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from utils.errors import InputError, short_repr
from utils.log import LOGGER
from utils.storage.files import make_folder, write_json


@dataclass
class Point:
    """One measured pruning.

    Attributes:
        layer: path of the pruned layer; '' for all layers.
        ratio: the share that was to be removed.
        channels, parameters: those that remain.
        gflops: at 640 pixels.
        precision, recall, map50, map: of the validation.
        milliseconds: median time for one image; None where it was not measured.
        relative_time: its share of the whole network's, measured in alternation.
    """

    layer: str
    ratio: float
    channels: int
    parameters: int
    gflops: float
    precision: float
    recall: float
    map50: float
    map: float
    milliseconds: float | None = None
    relative_time: float | None = None


class Record:
    """The finished points of a survey in a JSON file, with the options they were measured with."""

    def __init__(self, file: Path, options: dict[str, Any], points: list[dict[str, Any]]) -> None:
        self.file, self.options = file, options
        self.points = {(point["layer"], point["ratio"]): Point(**point) for point in points}

    @classmethod
    def open(cls, run_folder: Path, command: str, options: dict[str, Any], exist_ok: bool) -> Record:
        """The record with the same options in ``run_folder`` or exp2, exp3, ... beside it; else one in a new folder.

        Args:
            run_folder: the first folder to look into.
            command: 'sweep' or 'sensitivity', the stem of the file.
            options: everything that a point depends on.
            exist_ok: look into this folder only.

        Raises:
            InputError: ``exist_ok`` and the folder holds a record with other options.
        """
        options = json.loads(json.dumps(options))  # as it will be read
        folder, number = run_folder, 1
        make_folder(folder.parent)
        while not _is_created(folder):
            file = folder / f"{command}.json"
            stored = read_survey(file) if file.is_file() else None
            if stored is not None and stored["options"] == options:
                LOGGER.info(f"Continuing {folder}: {len(stored['points'])} finished points are kept")
                return cls(file, options, stored["points"])
            if exist_ok:
                if stored is not None:
                    raise InputError(
                        f"{folder} holds a {command} with {_differences(stored['options'], options)}: "
                        "choose another --name, or repeat it with its own options"
                    )
                break
            number += 1
            folder = run_folder.with_name(f"{run_folder.name}{number}")
        record = cls(make_folder(folder) / f"{command}.json", options, [])
        record.save()  # a run that is stopped before its first point is continued here, too
        return record

    def add(self, point: Point) -> None:
        """Keep a finished point."""
        self.points[point.layer, point.ratio] = point
        self.save()

    def save(self, **conclusions: Any) -> None:
        """Write the file, with the conclusions drawn from the points."""
        content = {"options": self.options, "points": [asdict(point) for point in self.sorted()], **conclusions}
        write_json(self.file, content)

    def sorted(self) -> list[Point]:
        """The points sorted by ratio; those of one ratio in the order in which they were measured."""
        return sorted(self.points.values(), key=lambda point: point.ratio)


def _is_created(folder: Path) -> bool:
    """Create ``folder``; False if it exists already."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _differences(stored: dict[str, Any], present: dict[str, Any]) -> str:
    """Up to three options that differ, in words."""
    names = [name for name in {**stored, **present} if stored.get(name) != present.get(name)]
    return ", ".join(
        f"{name} {short_repr(stored.get(name))} instead of {short_repr(present.get(name))}" for name in names[:3]
    )


def read_survey(path: Path) -> dict[str, Any]:
    """The content of sweep.json or sensitivity.json. Raises InputError for any other file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["options"] is not None and all(Point(**point) for point in content["points"]):
            return content
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InputError(f"{path} is not a record of a sweep or a sensitivity analysis: delete it, or name another folder")


def checkpoint_digest(file: str | Path) -> str:
    """SHA-256 of a checkpoint's content, which identifies a model wherever the file lies."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


class SurveySources(Protocol):
    """Options that name surveys for a report: run folders or JSON files; '' where the user named none."""

    @property
    def sweep(self) -> str:
        """The sweep."""

    @property
    def sensitivity(self) -> str:
        """The sensitivity analysis."""


Surveys = dict[str, dict[str, Any]]  # content of sweep.json and sensitivity.json, by command


def find_surveys(options: SurveySources, folder: Path) -> Surveys:
    """The finished surveys for a report, as far as there are any; ``folder`` is searched for those without a name.

    Raises:
        InputError: a named one does not exist or is not finished.
    """
    surveys = {}
    for command, given in (("sweep", options.sweep), ("sensitivity", options.sensitivity)):
        path = Path(given) if given else folder
        file = path if path.suffix == ".json" else path / f"{command}.json"
        if file.is_file():
            surveys[command] = read_survey(file)
            if "conclusion" not in surveys[command]:
                raise InputError(f"{file} is not finished: run prune_tools/{command}.py to its end first")
        elif given:
            raise InputError(
                f"--{command} {given}: there is no {command}.json, expected the run folder of {command}.py"
            )
    return surveys


def surveys_of(surveys: Surveys, files: Sequence[str | Path]) -> Surveys:
    """Those of ``surveys`` that measured one of these checkpoints; a warning names the others."""
    digests = {checkpoint_digest(file) for file in files} if surveys else set()
    own = {command: survey for command, survey in surveys.items() if survey["options"].get("checkpoint") in digests}
    for command in surveys.keys() - own.keys():
        measured = surveys[command]["options"].get("weights")
        LOGGER.warning(
            f"WARNING: the {command} is not shown in the report: it is of {measured}, whose content is not that of "
            f"{' or '.join(map(str, files))}"
        )
    return own
