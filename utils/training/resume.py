"""Continuing an interrupted run: whose options count, and which of the files in its folder.

A run folder may come from somebody else. What its opt.yaml may decide is said at each option (``on_resume`` in
``utils.commands.options``); consent, where to write and what to fetch are not among it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from utils.checks import check_file
from utils.commands.options import CALL, KEPT, OPEN, build, flag_of
from utils.dataset.description import check_dataset
from utils.errors import InputError, MissingFileError, short_repr
from utils.log import LOGGER
from utils.storage.files import ROOT, atomic_path, newest_file, read_yaml_mapping
from utils.training.hyperparameters import read_hyperparameters
from utils.training.options import TrainOptions
from utils.training.results import RESULT_COLUMNS

REMEDY = "name the checkpoint, --resume RUN/weights/last.pt"
OF_THE_RECORD = ("save_dir",)  # in opt.yaml beside the options
SCHEMES = ("http://", "https://")
SomeOptions = TypeVar("SomeOptions", bound=TrainOptions)


@dataclass(frozen=True)
class Resumption(Generic[SomeOptions]):
    """An interrupted run that is about to go on.

    Attributes:
        options: those of the run, with what this command line has changed.
        folder: of the run.
        named_data: the data set was named on this command line; only then missing data may be fetched.
        notes: what there is to say of the options.
    """

    options: SomeOptions
    folder: Path
    named_data: bool = False
    notes: list[str] = field(default_factory=list)

    def announce(self) -> None:
        """Log what differs from the record."""
        for note in self.notes:
            LOGGER.info(note)

    def dataset(self) -> dict[str, Any]:
        """The checked data set.

        Raises:
            MissingFileError: it is not where the record says. A recorded data set is never fetched: what the run folder
                names may be anybody's.
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
                "to this command, which also fetches missing data)"
            ) from error


def resume_options(options: SomeOptions) -> Resumption[SomeOptions]:
    """The interrupted run that ``options.resume`` names, True being the newest below runs/.

    Raises:
        MissingFileError: there is no such checkpoint or no opt.yaml in its run folder.
        InputError: the record is damaged, of another command, or contradicts this command line.
    """
    checkpoint = (
        Path(options.resume) if isinstance(options.resume, str) else newest_file(ROOT / "runs", "last*.pt", REMEDY)
    )
    folder = checkpoint.resolve().parent.parent
    record = folder / "opt.yaml"
    if not checkpoint.is_file() or not record.is_file():
        raise MissingFileError(f"--resume needs RUN/weights/last.pt beside RUN/opt.yaml, got {checkpoint}")
    _check_links(folder)
    recorded = _read_record(record)
    _check_command(checkpoint, recorded, options)
    saved, notes = _trusted(recorded, options, record)
    given = _given(options)
    lost = _contradicted(options, given, saved, folder)
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

    A relative path, which older records have, starts at the working folder, at a folder above the run, or at the
    repository root. Raises InputError for an address and MissingFileError for what is nowhere.
    """
    if value.lower().startswith(SCHEMES):
        raise InputError(
            f"{record} names the address {value} for {flag}, and nothing is fetched for a record: "
            f"fetch it yourself, or add {flag} to this command"
        )
    path = Path(value).expanduser()
    starts = [] if path.is_absolute() else [*record.parents, ROOT]
    for candidate in (path, *(start / path for start in starts)):
        if candidate.exists():
            return str(candidate.absolute())
    raise MissingFileError(f"{record} names {value} for {flag}, which is not there: add {flag} with its present place")


def as_recorded(options: TrainOptions) -> dict[str, Any]:
    """The options as opt.yaml has them: plain values, files by absolute paths, so that any folder will do to resume."""
    values = vars(options)
    return {
        name: absolute(value) if _is_path(options, name) else str(value) if isinstance(value, Path) else value
        for name, value in values.items()
    }


def absolute(value: Any) -> Any:
    """The absolute path of a file that exists; what is no such path, as it is."""
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
    for own_option, kind, command in (
        ("sr", "sparse training", "train_sparity"),
        ("recipe", "fine-tuning", "finetune"),
    ):
        if own_option in recorded and not hasattr(options, own_option):
            raise InputError(f"{checkpoint} is of {kind}: prune_tools/{command}.py --resume {checkpoint}")


def _trusted(
    recorded: Mapping[str, Any], options: TrainOptions, record: Path
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """The recorded values that may count, each of the kind that its option takes, and what there is to say."""
    fields = {entry.name: entry for entry in dataclasses.fields(options)}
    unknown = [name for name in recorded if name not in fields and name not in OF_THE_RECORD]
    notes = [f"{record} holds options that this command does not have, which are left out: {', '.join(unknown)}"]
    saved = {}
    for name, value in recorded.items():
        if name not in fields or _policy(options, name) not in (KEPT, OPEN):
            continue
        if value is None and getattr(type(options), name, 0) is not None:
            continue  # not given, in records of YOLOv5
        if not _fits(fields[name], value):
            raise InputError(f"{record} is damaged: {name} is {short_repr(value)}, expected {_expected(fields[name])}")
        saved[name] = value
    return saved, notes if unknown else []


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "int": (lambda value: type(value) is int, "a whole number"),
    "float": (lambda value: type(value) in (int, float), "a number"),
    "str": (lambda value: isinstance(value, str), "a text"),
    "Any": (lambda value: isinstance(value, (bool, int, float, str)), "a text or a number"),
    "None": (lambda value: value is None, "nothing"),
}


def _fits(entry: dataclasses.Field, value: Any) -> bool:
    """Tell whether ``value`` is of the kind that an option has by its annotation, and one of its choices."""
    choices = entry.metadata["arguments"].get("choices")
    if choices and value not in (*choices, entry.default):
        return False
    for kind in str(entry.type).split(" | "):
        if kind.startswith("list["):
            fits = _KINDS[kind[5:-1]][0]
            if isinstance(value, list) and all(fits(item) for item in value):
                return True
        elif _KINDS[kind][0](value):
            return True
    return False


def _expected(entry: dataclasses.Field) -> str:
    choices = entry.metadata["arguments"].get("choices")
    if choices:
        return f"one of {', '.join(choices)}"
    kinds = str(entry.type).split(" | ")
    return " or ".join(
        f"a list, each entry {_KINDS[kind[5:-1]][1]}" if kind.startswith("list[") else _KINDS[kind][1] for kind in kinds
    )


def _check_links(folder: Path) -> None:
    """Raise InputError when a file of the run is a link that leads out of its folder: it would be written there."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink() and not path.resolve().is_relative_to(folder):
                raise InputError(
                    f"{path} is a link to {path.resolve()}, outside the run folder, where a resumed run does not "
                    "write: replace it by what it leads to"
                )


# -- this command line -------------------------------------------------------------------------------------------------


def _policy(options: TrainOptions, name: str) -> str:
    return type(options).__dataclass_fields__[name].metadata["on_resume"]


def _is_path(options: TrainOptions, name: str) -> bool:
    return type(options).__dataclass_fields__[name].metadata["path"]


def _named(options: TrainOptions, *policies: str) -> list[str]:
    """The options with one of these policies."""
    return [entry.name for entry in dataclasses.fields(options) if entry.metadata["on_resume"] in policies]


def _given(options: TrainOptions) -> dict[str, Any]:
    """Return what this command line has said: the values that are not the defaults."""
    own = vars(build(type(options)))
    return {name: value for name, value in vars(options).items() if value != own[name]}


def _same(options: TrainOptions, name: str, first: Any, second: Any) -> bool:
    return first == second or (_is_path(options, name) and absolute(first) == absolute(second))


def _contradicted(
    options: TrainOptions, given: Mapping[str, Any], saved: Mapping[str, Any], folder: Path
) -> list[str]:  # fmt: skip
    """The options on this command line that the run cannot follow."""
    lost = [
        name
        for name in _named(options, KEPT)
        if name in given and not (name in saved and _same(options, name, given[name], saved[name]))
    ]
    elsewhere = (Path(options.project) / options.name).resolve() != folder
    lost += [name for name in ("project", "name") if name in given and elsewhere]
    if "hyp" in given and read_hyperparameters(check_file(given["hyp"])) != read_yaml_mapping(folder / "hyp.yaml"):
        lost.append("hyp")
    return lost


# -- results.csv -------------------------------------------------------------------------------------------------------


def trim_results(path: Path, start_epoch: int) -> None:
    """Drop the rows of results.csv that the resumed run will write again, and one that was broken off.

    Damaged rows are left out, too; the file as it was then stays beside it, and a warning says so.
    """
    if not path.is_file():
        LOGGER.warning(f"WARNING: there is no {path}: the rows of the epochs before {start_epoch} are missing")
        return
    content = path.read_bytes()
    header = ",".join(f"{name:>20}" for name in ("epoch", *RESULT_COLUMNS)).encode()
    rows, kept = content.splitlines(keepends=True), list[bytes]()
    damaged = not rows or not _is_header(rows[0])
    rows = rows if damaged else rows[1:]
    for row in rows:
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
            f"and are kept; the file as it was is now {original}"
        )
    with atomic_path(path) as draft:
        draft.write_bytes(b"\n".join([header, *kept]) + b"\n")


def _is_header(line: bytes) -> bool:
    return line.endswith(b"\n") and line.split(b",")[0].strip() == b"epoch"


def _epoch_of(row: bytes, values: int) -> int | None:
    """The epoch of a whole row, None when the row is damaged."""
    first, *others = row.split(b",")
    try:
        epoch, numbers = int(first), [float(cell) for cell in others]
    except ValueError:
        return None
    return epoch if row.endswith(b"\n") and len(numbers) == values else None
