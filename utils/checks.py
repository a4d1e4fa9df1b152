"""Checks of what the user names: image sizes, files, data sets; what is missing is fetched. No input is modified."""

from __future__ import annotations

import datetime
import glob
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from utils.commands.options import LARGEST_IMAGE
from utils.dataset.download import MARKER, is_incomplete, provide
from utils.downloads import download, is_url, url_name
from utils.errors import InputError, MissingFileError, short_repr
from utils.log import LOGGER
from utils.storage.archives import unpack
from utils.storage.files import ROOT, read_yaml

SEARCH_FOLDERS = ("data", "models", "utils")  # below the repository root
SPLITS = ("train", "val", "test")
MOST_CLASSES = 100_000
LONGEST_NAME = 1000  # characters of a class name


@overload
def check_img_size(imgsz: int, s: int = 32, floor: int = 0) -> int: ...
@overload
def check_img_size(imgsz: Sequence[int], s: int = 32, floor: int = 0) -> list[int]: ...
def check_img_size(imgsz: int | Sequence[int], s: int = 32, floor: int = 0) -> int | list[int]:
    """Round an image size, or each of several, up to a multiple of the stride ``s`` and to at least ``floor`` pixels.

    A changed size is reported. Raises InputError for sizes that are no whole number from 1 to LARGEST_IMAGE.
    """
    if isinstance(imgsz, (list, tuple)):
        return [check_img_size(size, s, floor) for size in imgsz]
    stride = int(s)  # may come as a tensor
    try:
        size = int(imgsz)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        size = 0
    if size != imgsz or not 1 <= size <= LARGEST_IMAGE:
        expected = f"a whole number of pixels from 1 to {LARGEST_IMAGE}"
        raise InputError(f"the image size must be {expected}, got {short_repr(imgsz)}: try 640")
    allowed = max(math.ceil(size / stride) * stride, int(floor))
    if allowed != size:
        LOGGER.warning(
            f"image size {size} is changed to {allowed}: it has to be a multiple of the model's stride {stride}"
        )
    return allowed


def check_suffix(file: str | Path | Iterable[str | Path], suffix: str | Iterable[str] = (".pt",)) -> None:
    """Raise InputError unless the file, or each of several, has one of the suffixes (any case); no suffix passes."""
    allowed = [suffix] if isinstance(suffix, str) else list(suffix)
    for name in [file] if isinstance(file, (str, Path)) else file:
        own = Path(name).suffix.lower()
        if allowed and own and own not in allowed:
            raise InputError(f"{name} should be a {' or '.join(allowed)} file, its suffix is {own}")


def check_file(file: str | Path, suffix: str | Iterable[str] = "") -> str:
    """Find a file: as given, below the repository root, or by its name within data/, models/ and utils/.

    A path that exists is returned unchanged, and so is ''. An http(s) address is fetched into the working folder,
    unless a file of that name is there. Raises MissingFileError when nothing is found, InputError when several files
    match, the suffix is none of ``suffix`` or a download fails.
    """
    name = str(file)
    if suffix:
        check_suffix(url_name(name) if is_url(name) else file, suffix)
    if not name or Path(name).exists():
        return name
    if is_url(name):
        return str(download(name, Path.cwd() / url_name(name)))
    wanted = Path(name)
    if wanted.is_absolute():
        raise MissingFileError(f"no such file: {name}")
    if (ROOT / wanted).exists():
        return str(ROOT / wanted)
    pattern = f"**/{glob.escape(wanted.as_posix())}"
    found = [match for folder in SEARCH_FOLDERS for match in sorted((ROOT / folder).glob(pattern))]
    if not found:
        places = ", ".join(f"{folder}/" for folder in SEARCH_FOLDERS)
        raise MissingFileError(f"no such file: {name} (searched {Path.cwd()}, {ROOT} and its {places})")
    if len(found) > 1:
        raise InputError(f"{name} means several files, give the whole path of one: {', '.join(map(str, found))}")
    return str(found[0])


def check_yaml(file: str | Path, suffix: str | Iterable[str] = (".yaml", ".yml")) -> str:
    """``check_file`` for a YAML file."""
    return check_file(file, suffix)


def check_dataset(
    data: str | Path | Mapping[str, Any],
    splits: Sequence[str] = ("train", "val"),
    autodownload: bool = True,
    allow_scripts: bool = False,
) -> dict[str, Any]:
    """Read and check the description of a data set, and fetch the data if they are missing.

    Args:
        data: a YAML file (looked up as by ``check_file``), its content, or a .zip with the data and one YAML file,
            which is unpacked into the folder ``datasets`` beside the repository. Keys: ``path`` (folder, default the
            repository root), ``train``, ``val``, ``test`` (each a folder, a text file that lists images, or a list of
            these, relative to ``path``), ``names`` (list, or mapping of index to name), ``nc`` (optional beside names),
            ``download`` (where missing data come from, see ``utils.dataset.download.provide``).
        splits: the splits that must exist.
        autodownload: fetch missing data if there is a ``download`` entry.
        allow_scripts: run that entry if it is a script.

    Returns:
        A new dict: ``path`` absolute, splits as absolute strings or lists of them, ``nc`` an int, ``names`` a dict of
        index to name, everything else as it was. A relative ``path`` starts at the repository root (YOLOv5's rule);
        if the splits are not there, but below the folder of the YAML file, it starts at that folder. Of a split such
        as ../train/images a leading ../ that leads nowhere is left out, as in v7.0.

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
    root = min(roots, key=lambda place: _misfit(place, requested))  # the first of equals
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
    """The folders that ``path`` may mean. An absolute one may be a link, which stays: labels lie beside it."""
    if path is not None and not isinstance(path, (str, Path)):
        raise InputError(f"{title}: path must be a folder, got {short_repr(path)}")
    folder = _expanded(path or "", "path", title)
    if folder.is_absolute():
        return [Path(os.path.abspath(folder))]
    return list(dict.fromkeys(Path(os.path.realpath(base / folder)) for base in bases))


def _expanded(entry: str | Path, key: str, title: str) -> Path:
    """A path with ~ written out."""
    try:
        if "\0" not in str(entry):
            return Path(entry).expanduser()
    except RuntimeError:  # the home of a user that this machine does not know
        pass
    raise InputError(f"{title}: '{key}' is not a path that can exist here: {short_repr(str(entry))}")


def _existing(root: Path, entry: str, title: str = "") -> str | None:
    """``entry`` if it exists below ``root``, else without a leading ../ if that exists, as in v7.0; else None.

    Data sets exported by Roboflow have ../train/images where train/ lies beside the YAML file. With a ``title`` the
    change is logged.
    """
    if os.path.exists(root / entry):
        return entry
    inside = entry.removeprefix("../")
    if inside == entry or not os.path.exists(root / inside):
        return None
    if title:
        LOGGER.info(f"{title}: {entry} is not below {root}: {inside} is used instead")
    return inside


def _missing(root: Path, entries: list[str]) -> list[str]:
    """Those entries that do not exist below ``root``; all of them while a download into it is unfinished."""
    return entries if is_incomplete(root) else [entry for entry in entries if _existing(root, entry) is None]


def _misfit(root: Path, entries: list[str]) -> tuple[int, int]:
    """The number of entries that are missing below ``root``, and of those that are not where they say."""
    return len(_missing(root, entries)), sum(_existing(root, entry) != entry for entry in entries)


def _read_description(data: str | Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any], list[Path]]:
    """Return the name for messages, the content, and the folders from which a relative ``path`` may start."""
    if isinstance(data, Mapping):
        return "the data set", data, [ROOT]
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
        kind = type(content).__name__
        raise InputError(f"{file} does not describe a data set: expected the keys train, val and names, got {kind}")
    _tell_changed_names(file, content)
    return str(file), content, [ROOT, file.resolve().parent]


def _tell_changed_names(file: Path, content: Mapping[str, Any]) -> None:
    """Warn of class names such as 007 and 1.10, which YAML takes for the numbers 7 and 1.1, as YOLOv5 does."""
    read, written = content.get("names"), read_yaml(file, as_written=True).get("names")
    if isinstance(read, dict) and isinstance(written, dict):
        read, written = list(read.values()), list(written.values())
    if isinstance(read, list) and isinstance(written, list):
        for index, (name, text) in enumerate(zip(read, written, strict=False)):
            if isinstance(name, (int, float, datetime.date)) and not isinstance(name, bool) and str(name) != text:
                LOGGER.warning(f"{file}: YAML reads the name {text} of class {index} as {name}: put it into quotes")
                return


def _unpacked_description(archive: Path) -> Path:
    """The YAML file of an archived data set, which is unpacked unless that was done since the archive was made."""
    folder = ROOT.parent / "datasets" / archive.stem
    for unpacked in (False, True):
        if unpacked:
            LOGGER.info(f"Unpacking {archive} into {folder}")
            unpack(archive, folder)
        found = sorted(folder.rglob("*.yaml"))
        if found and (unpacked or found[0].stat().st_mtime >= archive.stat().st_mtime):
            return found[0]
    raise InputError(f"{archive} holds no YAML file: add one that describes the data set")


def _class_names(content: Mapping[str, Any], title: str) -> tuple[int, dict[int, str]]:
    """Return (number of classes, {index: name}) from ``names``, ``nc`` or both; they have to agree."""
    count, given = content.get("nc"), content.get("names")
    if count is not None and (type(count) is not int or not 1 <= count <= MOST_CLASSES):
        expected = f"the number of classes, a whole number from 1 to {MOST_CLASSES}"
        raise InputError(f"{title}: nc must be {expected}, got {short_repr(count)}")
    if given is None or given in ("", [], {}):
        if count is None:
            raise InputError(f"{title} has neither 'names' nor 'nc': add names, the list of the classes")
        LOGGER.warning(f"{title} has no 'names': the classes are called class0 to class{count - 1}")
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
    """A class name as text. Raises InputError for what is no name: nothing, a truth value, a list."""
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
    """A path for a message; in quotes and shortened where it is long or holds line breaks and the like."""
    text = str(path)
    return text if len(text) <= 300 and text.isprintable() else short_repr(text)
