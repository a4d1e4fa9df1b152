"""The description of a data set: read from YAML, checked, and its data downloaded if they are missing."""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.checks import check_file, check_yaml
from utils.dataset import SPLITS
from utils.dataset.classes import MOST_CLASSES
from utils.dataset.download import MARKER, is_incomplete, provide
from utils.errors import InputError, MissingFileError, short_repr
from utils.log import LOGGER, log_once
from utils.storage.archives import unpack
from utils.storage.files import WORK, read_yaml

LONGEST_NAME = 1000  # characters of a class name


def check_dataset(
    data: str | Path | Mapping[str, Any],
    splits: Sequence[str] = ("train", "val"),
    autodownload: bool = True,
    allow_scripts: bool = False,
) -> dict[str, Any]:
    """Read and check the description of a data set, and download its data if they are missing.

    Args:
        data: a YAML file (looked up as by ``check_file``), its content, or a .zip with the data and one YAML file,
            which is unpacked into the folder ``datasets`` next to the repository. Keys: ``path`` (folder, default the
            repository root), ``train``, ``val``, ``test`` (each a folder, a text file that lists images, or a list of
            these, relative to ``path``), ``names`` (list, or mapping of index to name), ``nc`` (optional with names),
            ``download`` (source of missing data, see ``utils.dataset.download.provide``).
        splits: the splits that must exist.
        autodownload: download missing data if there is a ``download`` entry.
        allow_scripts: run that entry if it is a script.

    Returns:
        A new dict: ``path`` absolute, splits as absolute strings or lists of them, ``nc`` an int, ``names`` a dict of
        index to name, everything else unchanged. A relative ``path`` starts at the repository root (YOLOv5's rule), or
        at the folder of the YAML file if the splits exist only there. As in v7.0, a leading ../ of a split such as
        ../train/images is dropped if it leads nowhere.

    Raises:
        InputError: wrong content, a download that fails, a script that is not allowed. MissingFileError: the YAML file
            or a split does not exist.
    """
    title, content, bases = _read_description(data)
    unnamed = next((split for split in splits if not content.get(split)), None)
    if unnamed:
        raise InputError(f"{title} has no entry '{unnamed}': add the folder or list file of the {unnamed} images")
    result = dict(content)
    result["nc"], result["names"] = _class_names(content, title)

    entries = {split: _split_entries(content[split], split, title) for split in SPLITS if content.get(split)}
    roots = _roots(content.get("path"), bases, title)
    requested = [entry for split in splits for entry in entries[split]]
    root = min(roots, key=lambda folder: _misfit(folder, requested))  # the first of equals
    absent = [split for split in splits if _missing(root, entries[split])]
    if absent and autodownload and content.get("download"):
        provide(title, content, root, absent, lambda: bool(_missing(root, requested)), allow_scripts)
    missing = _missing(root, requested)
    if missing:
        remedy = "correct 'path' and the splits"
        if is_incomplete(root):
            remedy = f"a download is unfinished; if the data are complete all the same, delete {root / MARKER}"
        raise MissingFileError(_missing_message(title, missing, roots, remedy))

    result["path"] = str(root)
    for split, relative in entries.items():
        absolute = [str(root / (_existing(root, entry, title) or entry)) for entry in relative]
        result[split] = absolute[0] if isinstance(content[split], (str, Path)) else absolute
    return result


def _roots(path: Any, bases: list[Path], title: str) -> list[Path]:
    """The folders that ``path`` may mean. An absolute one may be a link and is not resolved: labels lie next to it."""
    if path is not None and not isinstance(path, (str, Path)):
        raise InputError(f"{title}: path must be a folder, got {short_repr(path)}")
    folder = _expanded(path or "", "path", title)
    if folder.is_absolute():
        return [Path(os.path.abspath(folder))]
    return list(dict.fromkeys(Path(os.path.realpath(base / folder)) for base in bases))


def _expanded(entry: str | Path, key: str, title: str) -> Path:
    """A path with ~ expanded."""
    try:
        if "\0" not in str(entry):
            return Path(entry).expanduser()
    except RuntimeError:  # the home of an unknown user
        pass
    raise InputError(f"{title}: '{key}' is not a path that can exist here: {short_repr(str(entry))}")


def _existing(root: Path, entry: str, title: str = "") -> str | None:
    """``entry`` if it exists below ``root``, else without a leading ../ if that exists, as in v7.0; else None.

    Data sets exported by Roboflow say ../train/images although train/ is next to the YAML file. With a ``title`` the
    change is logged.
    """
    if os.path.exists(root / entry):
        return entry
    inside = entry.removeprefix("../")
    if inside == entry or not os.path.exists(root / inside):
        return None
    if title:
        log_once(f"{title}: {entry} is not below {root}: {inside} is used instead", logging.INFO)
    return inside


def _missing(root: Path, entries: list[str]) -> list[str]:
    """The entries that do not exist below ``root``; all of them while a download into it is unfinished."""
    return entries if is_incomplete(root) else [entry for entry in entries if _existing(root, entry) is None]


def _misfit(root: Path, entries: list[str]) -> tuple[int, int]:
    """The number of entries that are missing below ``root``, and of those found only without their ../."""
    return len(_missing(root, entries)), sum(_existing(root, entry) != entry for entry in entries)


def _read_description(data: str | Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any], list[Path]]:
    """Return the name for messages, the content, and the folders from which a relative ``path`` may start."""
    if isinstance(data, Mapping):
        return "the data set", data, [WORK]
    if Path(data).suffix.lower() == ".zip":
        file = _unpacked_description(Path(check_file(data)))
        content = read_yaml(file)
        inside = {**content, "path": str(file.parent), "download": None} if isinstance(content, Mapping) else {}
        return str(data), inside, [file.parent]
    file = Path(check_yaml(data))
    if not file.is_file():
        raise InputError(f"{data or 'the data set'} is not a file: give the YAML file that describes the data set")
    content = read_yaml(file)
    if not isinstance(content, Mapping):
        type_name = type(content).__name__
        raise InputError(
            f"{file} does not describe a data set: expected the keys train, val and names, got {type_name}"
        )
    _warn_of_changed_names(file, content)
    return str(file), content, [WORK, file.resolve().parent]


def _warn_of_changed_names(file: Path, content: Mapping[str, Any]) -> None:
    """Warn of class names such as 007 and 1.10, which YAML, as in YOLOv5, reads as the numbers 7 and 1.1."""
    read = content.get("names")
    written = read_yaml(file, as_written=True).get("names")
    if isinstance(read, dict) and isinstance(written, dict):
        read = list(read.values())
        written = list(written.values())
    if isinstance(read, list) and isinstance(written, list):
        for index, (name, text) in enumerate(zip(read, written, strict=False)):
            if isinstance(name, (int, float, datetime.date)) and not isinstance(name, bool) and str(name) != text:
                log_once(f"{file}: YAML reads the name {text} of class {index} as {name}: put it into quotes")
                return


def _unpacked_description(archive: Path) -> Path:
    """The YAML file of an archived data set, which is unpacked unless that was done after the archive was made."""
    folder = (WORK / "../datasets" / archive.stem).resolve()
    for unpacked in (False, True):
        if unpacked:
            LOGGER.info(f"Unpacking {archive} into {folder}")
            unpack(archive, folder)
        files = sorted(folder.rglob("*.yaml"))
        if files and (unpacked or files[0].stat().st_mtime >= archive.stat().st_mtime):
            return files[0]
    raise InputError(f"{archive} holds no YAML file: add one that describes the data set")


def _class_names(content: Mapping[str, Any], title: str) -> tuple[int, dict[int, str]]:
    """Return the number of classes and {index: name} from ``names``, ``nc`` or both, which must agree."""
    count = content.get("nc")
    given = content.get("names")
    if count is not None and (type(count) is not int or not 1 <= count <= MOST_CLASSES):
        expected = f"the number of classes, a whole number from 1 to {MOST_CLASSES}"
        raise InputError(f"{title}: nc must be {expected}, got {short_repr(count)}")
    if given is None or given in ("", [], {}):
        if count is None:
            raise InputError(f"{title} has neither 'names' nor 'nc': add names, the list of the classes")
        log_once(f"{title} has no 'names': the classes are called class0 to class{count - 1}")
        given = [f"class{index}" for index in range(count)]
    if isinstance(given, Mapping):
        named = _indexed_names(given, title)
    elif isinstance(given, (list, tuple)):
        named = dict(enumerate(given))
    else:
        raise InputError(f"{title}: names must be a list, or a mapping of index to name, got {short_repr(given)}")
    if len(named) > MOST_CLASSES:
        raise InputError(f"{title}: names has {len(named)} entries, at most {MOST_CLASSES} are possible")
    if count is not None and len(named) != count:
        raise InputError(f"{title}: nc is {count} but names has {len(named)} entries: correct one, or leave nc out")
    return len(named), {index: _checked_name(index, name, title) for index, name in named.items()}


def _checked_name(index: int, name: Any, title: str) -> str:
    """A class name as text. Raises InputError for other values: None, a truth value, a list."""
    if name is None or isinstance(name, bool):
        raise InputError(f"{title}: YAML reads the name of class {index} as {name}: put it into quotes")
    if not isinstance(name, (str, int, float, datetime.date)):
        raise InputError(f"{title}: the name of class {index} must be a text, got {short_repr(name)}")
    text = str(name)
    if not text.strip() or len(text) > LONGEST_NAME:
        expected = f"a text of 1 to {LONGEST_NAME} characters"
        raise InputError(f"{title}: the name of class {index} must be {expected}, got {short_repr(text)}")
    return text


def _indexed_names(given: Mapping[Any, Any], title: str) -> dict[int, Any]:
    try:
        named = {int(index): name for index, name in given.items()}
    except (TypeError, ValueError, OverflowError):
        named = {}
    if sorted(named) != list(range(len(given))):
        keys = short_repr(list(given))
        raise InputError(f"{title}: the keys of names must be 0 to {len(given) - 1} without a gap, got {keys}")
    return dict(sorted(named.items()))


def _split_entries(value: Any, split: str, title: str) -> list[str]:
    entries = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(entry, (str, Path)) and str(entry) for entry in entries):
        raise InputError(f"{title}: '{split}' must be a path or a list of paths, got {short_repr(value)}")
    return [str(_expanded(entry, split, title)) for entry in entries]


def _missing_message(title: str, missing: list[str], roots: list[Path], remedy: str) -> str:
    shown = ", ".join(map(_shown, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    absolute = all(Path(entry).is_absolute() for entry in missing)
    looked = "" if absolute else f" (looked below {' and '.join(map(_shown, roots))})"
    return f"{title}: images not found: {shown}{looked}: {remedy}"


def _shown(path: str | Path) -> str:
    """A path for a message; quoted and shortened if it is long or not printable."""
    text = str(path)
    return text if len(text) <= 300 and text.isprintable() else short_repr(text)
