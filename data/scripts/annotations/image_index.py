"""Finding the image that an annotation names, below one or more folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from utils.dataset.image_files import FolderSearch


class ImageIndex:
    """The images below some folders, by name and by stem."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Search the folders and all below them."""
        search = FolderSearch()
        self.images = [Path(file) for folder in folders for file in search.images(str(folder))]
        search.report()
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for image in self.images:
            self._by_name[image.name.lower()].append(image)
            self._by_stem[image.stem.lower()].append(image)

    def find(self, reference: str) -> Path:
        """The image that ``reference``, a path on any system, names.

        Of several with its name the one counts whose folders agree with it the furthest; where there is none, the one
        with its stem and another suffix.

        Raises:
            LookupError: there is none, or several agree equally well; the message says which.
        """
        parts = [part.lower() for part in PurePosixPath(reference.replace("\\", "/")).parts]
        if not parts:
            raise LookupError("it names no image")
        candidates = self._by_name.get(parts[-1]) or self._by_stem.get(PurePosixPath(parts[-1]).stem)
        candidates = candidates or self._by_stem.get(parts[-1], [])  # a name without its suffix
        if not candidates:
            raise LookupError("there is no such image")
        agreeing = [_common_folders(image, parts) for image in candidates]
        best = [image for image, count in zip(candidates, agreeing, strict=True) if count == max(agreeing)]
        if len(best) > 1:
            raise LookupError(f"{len(best)} images have that name: {best[0]}, {best[1]}")
        return best[0]


def _common_folders(image: Path, parts: list[str]) -> int:
    """Folders in which a path agrees with the end of a reference."""
    count = 0
    for ours, theirs in zip(reversed(image.parts[:-1]), reversed(parts[:-1]), strict=False):
        if ours.lower() != theirs:
            break
        count += 1
    return count
