"""Image files of a split, from folders and lists, each once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.dataset.images import IMAGE_SUFFIXES
from utils.errors import InputError, MissingFileError
from utils.log import log_once
from utils.storage.text_lists import QUOTES, TextList, find_listed, is_utf8, locations, quoted

Identity = tuple[int, int]  # device and inode of a file or folder

EXPECTED_LINE = f"the path of an image on each line, with one of the suffixes {' '.join(IMAGE_SUFFIXES)}"


def find_images(path: str | Path | Sequence[str | Path]) -> list[str]:
    """List the images of a split: sorted, each once.

    Args:
        path: a folder (searched with its subfolders, links included, each real folder and file once), a text file with
            one image on each line (see ``listed_images``), an image, or a list of these.

    Raises:
        MissingFileError: a path does not exist.
        InputError: there is no image, or a list cannot be read.
    """
    parts = [path] if isinstance(path, (str, Path)) else list(path)
    folders = FolderSearch()
    images = sorted({image for part in parts for image in _images_of(Path(part), folders)})
    folders.report()
    if not images:
        where = ", ".join(map(str, parts)) or "an empty list of paths"
        raise InputError(f"no images in {where}: expected files with one of the suffixes {' '.join(IMAGE_SUFFIXES)}")
    return images


def _images_of(path: Path, folders: FolderSearch) -> list[str]:
    if path.is_dir():
        return folders.images(str(path))
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: correct the path in the data set's YAML file")
    return [str(path)] if is_image_name(str(path)) else listed_images(path)


def is_image_name(file: str) -> bool:
    """Tell whether ``file`` has the suffix of an image."""
    return file.rpartition(".")[2].lower() in IMAGE_SUFFIXES


# -- lists ---------------------------------------------------------------------------------------------------------


def listed_images(file: Path) -> list[str]:
    """Return the images that a text file lists, in its order, each once.

    A path with ``./`` starts at the folder of the list; another relative one at the working folder or, if nothing is
    there, at the folder of the list. Quotes around a path and backslashes are accepted. Images that do not exist are
    kept, so that the scan names them; other lines are counted, and the first of each sort is quoted.

    Raises:
        InputError: the file is not UTF-8 text, or has no usable line.
    """
    listed = TextList(file)
    images: dict[str, int] = {}
    for number, text in listed.lines:
        image = find_listed(text, file.parent)
        if image is None and not is_utf8(text):
            raise InputError(f"{file} is not UTF-8 text ({quoted(number, text)}): save it in that encoding")
        if image is None and is_image_name(text):
            image = next(locations(text, file.parent))
            if not os.path.isabs(image):
                _say_where(file, number, text)
        if image is None or not is_image_name(image) or os.path.isdir(image):
            listed.leave_out(number, text, _fault(text, image))
        elif image in images:
            listed.leave_out(number, text, "a repetition")
        else:
            images[image] = number
    if not images:
        raise listed.refuse(EXPECTED_LINE)
    listed.report()
    return list(images)


def _fault(text: str, existing: str | None) -> str:
    """Describe a line that is not the path of an image; ``existing`` is the file or folder that it names, if any."""
    if existing is not None and os.path.isdir(existing):
        return "a folder, which the data set's YAML file can name, not a list"
    first = text.split()[0]
    if len(text) > len(first) and text[0] not in QUOTES and is_image_name(first):
        return "a path followed by other text: boxes belong in label files"
    if is_image_name(text.strip(QUOTES)):
        return "a path in quotes of a file that does not exist"
    if "." not in os.path.basename(text):
        return "a name without a suffix"
    return "not a path with the suffix of an image"


def _say_where(file: Path, number: int, text: str) -> None:
    log_once(
        f"WARNING: {file}, {quoted(number, text)}: no such file; relative paths start at the working folder "
        f"{os.getcwd()}, or at the folder of the list, where ./ always starts"
    )


# -- folders -------------------------------------------------------------------------------------------------------


class FolderSearch:
    """Finds image files below folders; names that begin with a dot are ignored.

    Links are followed, but each real folder is searched once, and of several paths to one file one is taken, without
    links if possible.
    """

    def __init__(self) -> None:
        self._searched: set[Identity] = set()
        self._files: set[Identity] = set()
        self._skipped: dict[str, list[str]] = {}  # reason -> paths

    def images(self, folder: str) -> list[str]:
        """Return the images below ``folder`` that no earlier call has returned."""
        images: list[str] = []
        folders = [folder]
        while folders:
            links: list[str] = []  # to files and folders: they are followed once everything without links is known
            for each in folders:
                images += self._search(each, links)
            file_links = sorted(link for link in links if not os.path.isdir(link) and is_image_name(link))
            images += [link for link in file_links if self._is_new_file(link)]
            folders = sorted(link for link in links if os.path.isdir(link))
        return images

    def _search(self, folder: str, links: list[str]) -> Iterator[str]:
        """Yield the images in ``folder`` and the real folders in it; links are added to ``links``."""
        try:
            status = os.stat(folder)
            identity = status.st_dev, status.st_ino
            if identity in self._searched:
                self._skipped.setdefault("leads to a folder that was already searched", []).append(folder)
                return
            self._searched.add(identity)
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self._skipped.setdefault(f"cannot be searched ({error.strerror or error})", []).append(folder)
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                links.append(entry.path)
            elif entry.is_dir():
                yield from self._search(entry.path, links)
            elif is_image_name(entry.name):
                self._files.add((status.st_dev, entry.inode()))
                yield entry.path

    def _is_new_file(self, link: str) -> bool:
        try:
            status = os.stat(link)
        except OSError:
            return True  # a broken link: the scan names it
        identity = status.st_dev, status.st_ino
        if identity in self._files:
            self._skipped.setdefault("is a link to an image that was already found", []).append(link)
            return False
        self._files.add(identity)
        return True

    def report(self) -> None:
        """Warn of the paths that were skipped, one line for each reason."""
        for reason, paths in self._skipped.items():
            more = f" (and {len(paths) - 1} others like it)" if len(paths) > 1 else ""
            log_once(f"WARNING: {paths[0]} {reason}: left out{more}")
