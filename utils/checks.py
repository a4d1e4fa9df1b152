"""Check user-supplied image sizes, suffixes and files; files at http(s) addresses are downloaded."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from utils.commands.options import LARGEST_IMAGE
from utils.downloads import download, is_url, url_name
from utils.errors import InputError, MissingFileError, short_repr
from utils.log import LOGGER
from utils.storage.files import ROOT

SEARCH_FOLDERS = ("data", "models", "utils")  # below the repository root


@overload
def check_img_size(imgsz: int, s: int = 32, floor: int = 0) -> int: ...
@overload
def check_img_size(imgsz: Sequence[int], s: int = 32, floor: int = 0) -> list[int]: ...
def check_img_size(imgsz: int | Sequence[int], s: int = 32, floor: int = 0) -> int | list[int]:
    """Round an image size, or each of several, up to a multiple of the stride ``s`` and to at least ``floor`` pixels.

    A changed size is logged. Raises InputError for a size that is not a whole number from 1 to LARGEST_IMAGE.
    """
    if isinstance(imgsz, (list, tuple)):
        return [check_img_size(size, s, floor) for size in imgsz]
    stride = int(s)  # may be a tensor
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
    """Raise InputError if the file, or one of several, has a suffix (any case) that is not allowed."""
    allowed = [suffix] if isinstance(suffix, str) else list(suffix)
    for name in [file] if isinstance(file, (str, Path)) else file:
        own = Path(name).suffix.lower()
        if allowed and own and own not in allowed:
            raise InputError(f"{name} should be a {' or '.join(allowed)} file, its suffix is {own}")


def check_file(file: str | Path, suffix: str | Iterable[str] = "") -> str:
    """Find a file: as given, below the repository root, or by its name within data/, models/ and utils/.

    A path that exists is returned unchanged, and so is ''. An http(s) address is downloaded into the working folder,
    unless a file of that name exists there. Raises MissingFileError if nothing is found, InputError if several files
    match, the suffix is not one of ``suffix`` or a download fails.
    """
    name = str(file)
    if suffix:
        check_suffix(url_name(name) if is_url(name) else file, suffix)
    if not name or Path(name).exists():
        return name
    if is_url(name):
        return str(download(name, Path.cwd() / url_name(name)))
    path = Path(name)
    if path.is_absolute():
        raise MissingFileError(f"no such file: {name}")
    if (ROOT / path).exists():
        return str(ROOT / path)
    pattern = f"**/{glob.escape(path.as_posix())}"
    matches = [match for folder in SEARCH_FOLDERS for match in sorted((ROOT / folder).glob(pattern))]
    if not matches:
        folders = ", ".join(f"{folder}/" for folder in SEARCH_FOLDERS)
        raise MissingFileError(f"no such file: {name} (searched {Path.cwd()}, {ROOT} and its {folders})")
    if len(matches) > 1:
        raise InputError(f"{name} means several files, give the whole path of one: {', '.join(map(str, matches))}")
    return str(matches[0])


def check_yaml(file: str | Path, suffix: str | Iterable[str] = (".yaml", ".yml")) -> str:
    """``check_file`` for a YAML file."""
    return check_file(file, suffix)
