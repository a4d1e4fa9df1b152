"""Continuing an interrupted run: which options count, and which files of its folder.

A run folder may come from somebody else. Each option says whether opt.yaml may decide it (``on_resume`` in
``utils.commands.options``); consent, where to write and what to download are never decided by it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from utils.checks import check_file
from utils.commands.options import CALL, KEPT, OPEN, build, flag_of, flag_words, quoted
from utils.dataset.description import check_dataset
from utils.errors import InputError, MissingFileError, short_repr
from utils.log import LOGGER
from utils.storage.files import WORK, atomic_path, newest_file, read_yaml_mapping
from utils.training.hyperparameters import read_hyperparameters
from utils.training.options import TrainOptions
from utils.training.results import RESULT_COLUMNS

REMEDY = "name the checkpoint, --resume RUN/weights/last.pt"
OF_THE_RECORD = ("save_dir",)  # in opt.yaml in addition to the options
SCHEMES = ("http://", "https://")
SomeOptions = TypeVar("SomeOptions", bound=TrainOptions)


@dataclass(frozen=True)
class Resumption(Generic[SomeOptions]):
    """An interrupted run that is about to continue.

    Attributes:
        options: those of the run, with the changes of this command line.
        folder: of the run.
        named_data: the data set was named on this command line; only then missing data may be downloaded.
        notes: messages about the options.
    """

    options: SomeOptions
    folder: Path
    named_data: bool = False
    notes: list[str] = field(default_factory=list)

    def announce(self) -> None:
        """Log the notes."""
        for note in self.notes:
            LOGGER.info(note)

    def dataset(self) -> dict[str, Any]:
        """The checked data set.

        Raises:
            MissingFileError: it is not where the record says. A recorded data set is never downloaded: anybody may have
                written the record.
        """
        options = self.options
        may_fetch = self.named_data or options.allow_download_scripts
        try:
            return check_dataset(options.data, autodownload=may_fetch, allow_scripts=options.allow_download_scripts)
        except MissingFileError as error:
            if self.named_data:
                raise
            raise MissingFileError(
                f"{error} ({self.folder / 'opt.yaml'} names this data set: if the data have moved, add --data NEW.yaml "
                "to this command, which also downloads missing data)"
            ) from error


def resume_options(options: SomeOptions) -> Resumption[SomeOptions]:
    """The interrupted run that ``options.resume`` names; True means the newest below runs/.

    Raises:
        MissingFileError: there is no such checkpoint or no opt.yaml in its run folder.
        InputError: the record is damaged, of another command, or contradicts this command line.
    """
    if isinstance(options.resume, str):
        checkpoint = Path(options.resume)
    else:
        checkpoint = newest_file(WORK / "runs", "last*.pt", REMEDY)
    folder = checkpoint.resolve().parent.parent
    record = folder / "opt.yaml"
    if not checkpoint.is_file() or not record.is_file():
        raise MissingFileError(f"--resume needs RUN/weights/last.pt and RUN/opt.yaml, got {checkpoint}")
    _check_links(folder)
    recorded = _read_record(record)
    _check_command(checkpoint, recorded, options)
    saved, notes = _trusted(recorded, options, record)
    given = _given(options)
    _check_augmentation(saved, given, record)
    lost = _contradicted(options, _without_implied(options, given), saved, folder)
    if lost:
        flags = ", ".join(flag_of(name) for name in lost)
        raise InputError(f"--resume continues with the options of {record}: leave out {flags}")
    changed = {name: value for name, value in given.items() if _policy(options, name) == OPEN}
    for name, value in saved.items():
        if name not in changed and _policy(options, name) == OPEN and _is_path(options, name) and value:
            saved[name] = located(value, flag_of(name), record)
    notes += [
        f"Resuming with {flag_of(name)} {value} instead of {saved.get(name)}"
        for name, value in changed.items()
        if name in saved and not _same(options, name, value, saved[name])
    ]
    own = {name: getattr(options, name) for name in _named(options, CALL)}
    follows = {
        "resume": str(checkpoint), "hyp": str(folder / "hyp.yaml"), "project": str(folder.parent), "name": folder.name,
    }  # fmt: skip
    return Resumption(build(type(options), **{**saved, **changed, **own, **follows}), folder, "data" in changed, notes)


def located(value: str, flag: str, record: Path) -> str:
    """The file that ``record``, a run's opt.yaml, names for ``flag``, which must be on this machine.

    Older records have relative paths: they are looked for from the working folder, the folders above the run, and the
    repository root. Raises InputError for a URL and MissingFileError for a file that is in none of them.
    """
    if value.lower().startswith(SCHEMES):
        raise InputError(
            f"{record} names the URL {value} for {flag}, and nothing is downloaded for a record: "
            f"download it yourself, or add {flag} to this command"
        )
    path = Path(value).expanduser()
    starts = [] if path.is_absolute() else [*record.parents, WORK]
    for candidate in (path, *(start / path for start in starts)):
        if candidate.exists():
            return str(candidate.absolute())
    raise MissingFileError(f"{record} names {value} for {flag}, which does not exist: add {flag} with its present path")


def as_recorded(options: TrainOptions) -> dict[str, Any]:
    """The options as opt.yaml has them: plain values, files by absolute paths, so that any folder can resume."""
    record = {}
    for name, value in vars(options).items():
        plain = str(value) if isinstance(value, Path) else value
        record[name] = absolute(value) if _is_path(options, name) else plain
    return record


def absolute(value: Any) -> Any:
    """The absolute path of a file that exists; any other value unchanged."""
    if isinstance(value, (str, Path)) and str(value) and Path(value).exists():
        return str(Path(value).absolute())
    return str(value) if isinstance(value, Path) else value


# -- the record --------------------------------------------------------------------------------------------------------


def _read_record(record: Path) -> dict[str, Any]:
    content = read_yaml_mapping(record)
    if not all(isinstance(name, str) for name in content):
        raise InputError(f"{record} does not hold the options of a run: expected 'name: value' lines")
    return content


def _check_command(checkpoint: Path, recorded: Mapping[str, Any], options: TrainOptions) -> None:
    """Raise InputError when the run is of a command with further options."""
    for own_option, training, command in (
        ("sr", "sparse training", "train_sparity"),
        ("recipe", "fine-tuning", "finetune"),
    ):
        if own_option in recorded and not hasattr(options, own_option):
            raise InputError(f"{checkpoint} is of {training}: prune_tools/{command}.py --resume {checkpoint}")


def _trusted(
    recorded: Mapping[str, Any], options: TrainOptions, record: Path
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """The recorded values that may count, each of its option's type, and messages about the others."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    unknown = [name for name in recorded if name not in fields and name not in OF_THE_RECORD]
    notes = []
    if unknown:
        notes.append(f"{record} holds options that this command does not have, which are ignored: {', '.join(unknown)}")
    saved = {}
    for name, value in recorded.items():
        if name not in fields or _policy(options, name) not in (KEPT, OPEN):
            continue
        if value is None and getattr(type(options), name, 0) is not None:
            continue  # not given, in records of YOLOv5
        if not _fits(fields[name], value):
            raise InputError(f"{record} is damaged: {name} is {short_repr(value)}, expected {_expected(fields[name])}")
        saved[name] = value
    return saved, notes


_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "int": (lambda value: type(value) is int, "a whole number"),
    "float": (lambda value: type(value) in (int, float), "a number"),
    "str": (lambda value: isinstance(value, str), "text"),
    "None": (lambda value: value is None, "nothing"),
}


def _fits(field: dataclasses.Field, value: Any) -> bool:
    """Tell whether ``value`` has the annotated type of an option, and is one of its choices."""
    choices = field.metadata["arguments"].get("choices")
    if choices and value not in (*choices, field.default):
        return False
    return any(_is_of(value, annotation) for annotation in str(field.type).split(" | "))


def _is_of(value: Any, annotation: str) -> bool:
    if annotation.startswith("list["):
        return isinstance(value, list) and all(_is_of(item, annotation[5:-1]) for item in value)
    return _TYPES[annotation][0](value)


def _expected(field: dataclasses.Field) -> str:
    choices = field.metadata["arguments"].get("choices")
    if choices:
        return f"one of {', '.join(choices)}"
    return " or ".join(_in_words(annotation) for annotation in str(field.type).split(" | "))


def _in_words(annotation: str) -> str:
    if annotation.startswith("list["):
        return f"a list, each item {_in_words(annotation[5:-1])}"
    return _TYPES[annotation][1]


def _check_augmentation(saved: Mapping[str, Any], given: Mapping[str, Any], record: Path) -> None:
    """Raise InputError if only the record names a function to call: anybody may have written it."""
    if saved.get("augment") and "augment" not in given:
        flag = quoted(flag_words("augment", saved["augment"]))
        raise InputError(f"{record} names a function for --augment, which runs if this command names it: add {flag}")


def _check_links(folder: Path) -> None:
    """Raise InputError if a file of the run is a link that leads out of its folder, where it would be written."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink() and not path.resolve().is_relative_to(folder):
                raise InputError(
                    f"{path} is a link to {path.resolve()}, outside the run folder, where a resumed run does not "
                    "write: replace it by the file or folder that it leads to"
                )


# -- this command line -------------------------------------------------------------------------------------------------


def _policy(options: TrainOptions, name: str) -> str:
    return type(options).__dataclass_fields__[name].metadata["on_resume"]


def _is_path(options: TrainOptions, name: str) -> bool:
    return type(options).__dataclass_fields__[name].metadata["path"]


def _named(options: TrainOptions, *policies: str) -> list[str]:
    """The options with one of these policies."""
    return [field.name for field in dataclasses.fields(options) if field.metadata["on_resume"] in policies]


def _given(options: TrainOptions) -> dict[str, Any]:
    """The options that this command line has set: those whose values are not the defaults."""
    defaults = vars(build(type(options)))
    return {name: value for name, value in vars(options).items() if value != defaults[name]}


def _without_implied(options: TrainOptions, given: dict[str, Any]) -> dict[str, Any]:
    """The options of ``given`` without those whose values follow from the others, as --penalty follows from --sr.

    The last ones are tried first: they have their defaults from those before them.
    """
    needed = dict(given)
    for name in reversed(given):
        others = {other: value for other, value in needed.items() if other != name}
        try:
            if build(type(options), **others) == options:
                needed = others
        except InputError:  # they do not go together without it
            continue
    return needed


def _same(options: TrainOptions, name: str, first: Any, second: Any) -> bool:
    return first == second or (_is_path(options, name) and absolute(first) == absolute(second))


def _contradicted(
    options: TrainOptions, given: Mapping[str, Any], saved: Mapping[str, Any], folder: Path
) -> list[str]:  # fmt: skip
    """The options on this command line that the run cannot follow."""
    lost = []
    for name in _named(options, KEPT):
        if name in given and not (name in saved and _same(options, name, given[name], saved[name])):
            lost.append(name)
    elsewhere = (Path(options.project) / options.name).resolve() != folder
    lost += [name for name in ("project", "name") if name in given and elsewhere]
    if "hyp" in given and read_hyperparameters(check_file(given["hyp"])) != read_yaml_mapping(folder / "hyp.yaml"):
        lost.append("hyp")
    return lost


# -- results.csv -------------------------------------------------------------------------------------------------------


def trim_results(path: Path, start_epoch: int) -> None:
    """Drop the rows of results.csv that the resumed run will write again, and an incomplete last row.

    Damaged rows are dropped, too; the file as it was is then kept next to it, and a warning says so.
    """
    if not path.is_file():
        LOGGER.warning(f"WARNING: there is no {path}: the rows of the epochs before {start_epoch} are missing")
        return
    content = path.read_bytes()
    header = ",".join(f"{name:>20}" for name in ("epoch", *RESULT_COLUMNS)).encode()
    rows = content.splitlines(keepends=True)
    kept: list[bytes] = []
    damaged = not rows or not _is_header(rows[0])
    for row in rows if damaged else rows[1:]:
        epoch = _epoch_of(row, len(RESULT_COLUMNS))
        if epoch == len(kept) < start_epoch:
            kept.append(row.rstrip())
        elif row.endswith(b"\n") and (epoch is None or epoch < start_epoch):
            damaged = True
    if damaged or len(kept) < start_epoch:
        original = path.with_name("results_damaged.csv")
        with atomic_path(original) as draft:
            draft.write_bytes(content)
        LOGGER.warning(
            f"WARNING: {path} is damaged: {len(kept)} of the {start_epoch} rows before epoch {start_epoch} can be read "
            f"and are kept; the original file is now {original}"
        )
    with atomic_path(path) as draft:
        draft.write_bytes(b"\n".join([header, *kept]) + b"\n")


def _is_header(line: bytes) -> bool:
    return line.endswith(b"\n") and line.split(b",")[0].strip() == b"epoch"


def _epoch_of(row: bytes, values: int) -> int | None:
    """The epoch of a complete row, None if the row is damaged."""
    first, *others = row.split(b",")
    try:
        epoch, numbers = int(first), [float(cell) for cell in others]
    except ValueError:
        return None
    return epoch if row.endswith(b"\n") and len(numbers) == values else None
