"""The record that a checkpoint keeps of its training, from which later commands take data set and image size.

It is the entry ``opt`` of YOLOv5 v7.0: a plain dict of the options. Anybody may have written it: types are checked,
nothing is downloaded because of it, and a file that it names is only read as a data set YAML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from utils.checks import check_file
from utils.commands.options import LARGEST_IMAGE
from utils.dataset.classes import class_names
from utils.dataset.description import check_dataset
from utils.errors import InputError, MissingFileError, short_repr
from utils.log import LOGGER
from utils.storage.files import ROOT, read_yaml_mapping
from utils.validation.options import IMAGE_SIZE

# What commands take where a checkpoint says nothing: the first data set that has the classes of the model
DATA_SETS = ("data/coco128.yaml", "data/mask.yaml")
LONGEST_PATH = 4096  # characters
SUFFIXES = (".yaml", ".yml")
FIELDS = ("data", "imgsz")

Options = TypeVar("Options")


@dataclass(frozen=True)
class TrainingRecord:
    """The recorded facts of a training that the next commands need.

    Attributes:
        source: the file that they come from; '' for a start without weights.
        names: of the classes of its model.
        data: data set YAML as it was recorded; '' if the file does not say.
        imgsz: pixels of the longer side; None if the file does not say.
    """

    source: str
    names: tuple[str, ...] = ()
    data: str = ""
    imgsz: int | None = None

    @property
    def image_size(self) -> int:
        """The recorded image size in pixels, or the default."""
        return self.imgsz or IMAGE_SIZE

    def data_set(self, splits: Sequence[str] = ("val",)) -> str:
        """The data set YAML of the training, if it and its ``splits`` are on this machine; else a default that fits.

        Raises:
            InputError: there is none, and no default data set has the classes of the model.
        """
        problem = (
            f"{self.source} does not say which data set it was trained on" if self.source else "no --data is given"
        )
        if self.data:
            try:
                file = _local_yaml(self.data)
                check_dataset(file, splits=splits, autodownload=False)
                return file
            except InputError as error:
                problem = f"{self.source} was trained on {short_repr(self.data)}, which cannot be used here ({error})"
        for name in DATA_SETS:
            if _names_of(ROOT / name) == list(self.names):
                LOGGER.info(f"{problem}: taking {name}, which has the same classes (--data names another one)")
                return str(ROOT / name)
        raise InputError(f"{problem}: name the data set with --data")


def training_record(checkpoint: Mapping[str, Any], source: str | Path) -> TrainingRecord:
    """The record in the content of a checkpoint; what is not there, or has another type than it should, is left out."""
    names = tuple(str(name) for name in class_names(checkpoint["model"]))
    recorded = checkpoint.get("opt")
    recorded = recorded if isinstance(recorded, Mapping) else {}
    data, imgsz = recorded.get("data"), recorded.get("imgsz")
    return TrainingRecord(
        str(source),
        names,
        data if isinstance(data, str) and len(data) <= LONGEST_PATH else "",
        imgsz if type(imgsz) is int and 1 <= imgsz <= LARGEST_IMAGE else None,
    )


def with_record(
    options: Options, record: TrainingRecord, splits: Sequence[str] = ("val",), fields: Sequence[str] = FIELDS
) -> Options:
    """The options with data set and image size from ``record`` where the command line gives none; says so in one line.

    Args:
        options: with the fields ``data`` and ``imgsz``, empty if they were not given.
        record: of the weights.
        splits: of the data set that the command reads.
        fields: those to fill in.

    Raises:
        InputError: no data set is given, and that of the record cannot be used.
    """
    given: Any = options
    changes: dict[str, Any] = {}
    recorded = ""
    if "data" in fields and not given.data:
        changes["data"] = record.data_set(splits)
        if record.data and changes["data"] == _existing(record.data):
            recorded += f" --data {changes['data']}"
    if "imgsz" in fields and not given.imgsz:
        changes["imgsz"] = record.image_size
        recorded += f" --imgsz {record.imgsz}" if record.imgsz else ""
    if recorded:
        LOGGER.info(f"Taken from {record.source}:{recorded}")
    return replace(given, **changes) if changes else options


def recorded_fields(record: TrainingRecord, options: Any) -> tuple[str, ...]:
    """Those of ``data`` and ``imgsz`` for which the record alone gives the next command the values of ``options``."""
    file = _existing(record.data) if record.data else ""
    same_data = bool(file) and Path(file).absolute() == Path(_existing(str(options.data)) or options.data).absolute()
    return ("data",) * same_data + ("imgsz",) * (record.imgsz == options.imgsz)


def _local_yaml(path: str) -> str:
    """The YAML file that a record names. Raises InputError for an address or a network share, and if there is none."""
    if "://" in path or path.startswith(("\\\\", "//")):
        raise InputError("it is not a file of this machine")
    if not path.isprintable() or Path(path).suffix.lower() not in SUFFIXES:
        raise InputError("it is not a YAML file")
    file = check_file(path)
    if not Path(file).is_file():
        raise MissingFileError(f"no such file: {file}")
    return file


def _existing(path: str) -> str:
    try:
        return _local_yaml(path)
    except InputError:
        return ""


def _names_of(file: Path) -> list[str]:
    """The class names of a data set YAML of this project."""
    names = read_yaml_mapping(file)["names"]
    return [str(name) for name in (names.values() if isinstance(names, Mapping) else names)]
