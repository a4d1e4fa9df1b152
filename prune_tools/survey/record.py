"""The record of a survey: measured points in a JSON file, and finding those of a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError, short_repr
from utils.log import LOGGER
from utils.storage.files import make_folder, write_json


@dataclass
class Point:
    """One measured pruning; ``ratio`` was asked for, of ``layer`` or ('') of all layers.

    ``channels``, ``parameters`` and ``gflops`` (at 640 pixels) are what is left. ``milliseconds`` is the median for one
    image, ``relative_time`` its share of the whole network's, measured in turns; None where time was not measured.
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
    def open(cls, place: Path, kind: str, wanted: dict[str, Any], exist_ok: bool) -> Record:
        """The record in ``place``, or place2, place3, ..., made with the same options; else a new one in a new folder.

        Raises:
            InputError: ``exist_ok`` and ``place`` holds a record with other options.
        """
        wanted = json.loads(json.dumps(wanted))  # as it will be read
        folder, number = place, 1
        make_folder(folder.parent)
        while not _is_created(folder):
            stored = read_survey(folder / f"{kind}.json") if (folder / f"{kind}.json").is_file() else None
            if stored is not None and stored["options"] == wanted:
                LOGGER.info(f"Going on with {folder}: {len(stored['points'])} finished points are kept")
                return cls(folder / f"{kind}.json", wanted, stored["points"])
            if exist_ok:
                if stored is not None:
                    raise InputError(f"{folder} holds a {kind} with {_differences(stored['options'], wanted)}: "
                                     "choose another --name, or repeat it with its own options")  # fmt: skip
                break
            number += 1
            folder = place.with_name(f"{place.name}{number}")
        record = cls(make_folder(folder) / f"{kind}.json", wanted, [])
        record.save()  # so that a run that is stopped before its first point goes on here, too
        return record

    def add(self, point: Point) -> None:
        """Keep a finished point."""
        self.points[point.layer, point.ratio] = point
        self.save()

    def save(self, **conclusions: Any) -> None:
        """Write the file, with what was concluded from the points."""
        content = {"options": self.options, "points": [asdict(point) for point in self.sorted()], **conclusions}
        write_json(self.file, content)

    def sorted(self) -> list[Point]:
        """The points by ratio; of a ratio in the order in which they were measured."""
        return sorted(self.points.values(), key=lambda point: point.ratio)


def _is_created(folder: Path) -> bool:
    """Create ``folder``; False where there is one already."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _differences(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = [name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name)]
    return ", ".join(
        f"{name} {short_repr(stored.get(name))} instead of {short_repr(wanted.get(name))}" for name in names[:3]
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
    """SHA-256 of a checkpoint's content: the same model, wherever it lies."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def find_surveys(options: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """The finished surveys for a report, by kind, as far as there are any.

    Args:
        options: with ``sweep`` and ``sensitivity``, run folders or JSON files as the user named them; '' looks into
            ``folder``.

    Raises:
        InputError: a named one does not exist or is not finished.
    """
    found = {}
    for kind in ("sweep", "sensitivity"):
        given = getattr(options, kind)
        place = Path(given) if given else folder
        file = place if place.suffix == ".json" else place / f"{kind}.json"
        if file.is_file():
            found[kind] = read_survey(file)
            if "conclusion" not in found[kind]:
                raise InputError(f"{file} is not finished: run prune_tools/{kind}.py to its end first")
        elif given:
            raise InputError(f"--{kind} {given}: there is no {kind}.json, expected the run folder of {kind}.py")
    return found


def surveys_of(surveys: dict[str, dict[str, Any]], files: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """Those of ``surveys`` that measured one of these checkpoints; the others are named in a warning."""
    known = {checkpoint_digest(file) for file in files} if surveys else set()
    own = {kind: survey for kind, survey in surveys.items() if survey["options"].get("checkpoint") in known}
    for kind in surveys.keys() - own.keys():
        measured = surveys[kind]["options"].get("weights")
        LOGGER.warning(
            f"WARNING: the {kind} is not shown in the report: it is of {measured}, whose content is not that of "
            f"{' or '.join(map(str, files))}"
        )
    return own
