"""Labels in other formats that lie near images without label files, and the command that converts them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.commands.options import quoted
from utils.dataset.labels import img2label_paths
from utils.installation import words_to_show

CONVERTER = "data/scripts/convert_labels.py"
MOST_FOLDERS = 20  # of images that are looked around in
MOST_ENTRIES = 200_000  # of a folder that are looked at
MOST_JSON_FILES = 100  # of a folder that are opened
HEAD_BYTES = 4096  # of a JSON file, in which the keys of COCO begin
COCO_KEYS = (b'"images"', b'"annotations"', b'"categories"')
USUAL_FOLDERS = ("annotations", "annotation", "labels", "xml", "xmls", "json", "jsons", "label")


@dataclass(frozen=True)
class Finding:
    """Annotations of one format in one folder.

    Attributes:
        source: the folder of the annotations, or the COCO file.
        images: the folder that is searched for their images.
        text: number and format, for messages.
        count: number of annotations.
    """

    source: Path
    images: Path
    text: str
    count: int


def annotation_hint(images: Sequence[str], names: Mapping[int, str] | Sequence[str] | None = None) -> str:
    """A sentence with the command that converts annotations lying beside ``images`` or in a folder near them.

    Looked for are VOC XML and LabelMe JSON named like the images, and COCO JSON. ``names`` are the classes, which the
    command then takes in this order. Returns '' if there are no such files.
    """
    stems = {Path(image).stem for image in images}
    split_names = {Path(image).parent.name.lower() for image in images}
    looked_at = [_look(*folders, stems, split_names) for folders in _surroundings(images)]
    findings = [finding for finding in looked_at if finding is not None]
    if not findings:
        return ""
    best = max(findings, key=lambda finding: finding.count)
    words = [*words_to_show(CONVERTER), str(best.source)]
    around = best.source if best.source.is_dir() else best.source.parent
    if around != best.images and around not in best.images.parents:
        words += ["--images", str(best.images)]
    if names is not None:
        words += ["--names", *(names.values() if isinstance(names, Mapping) else names)]
    return f"found {best.text} in {around}; convert the labels, then start again: {quoted(words)}"


def _surroundings(images: Iterable[str]) -> list[tuple[Path, Path]]:
    """Folders to look into, each with the folder of its images: those of the images first."""
    folders = list(dict.fromkeys(Path(image).parent for image in images))[:MOST_FOLDERS]
    folders_of_images: dict[Path, Path] = {}
    for folder in folders:
        folders_of_images.setdefault(folder, folder)
        (label_file,) = img2label_paths([str(folder / "x.jpg")])
        folders_of_images.setdefault(Path(label_file).parent, folder)
    for folder in folders:
        for level, images_below in ((folder.parent, folder), (folder.parent.parent, folder.parent)):
            folders_of_images.setdefault(level, images_below)
            for name in _entries(level):
                if name.lower() in USUAL_FOLDERS and (level / name).is_dir():
                    folders_of_images.setdefault(level / name, images_below)
    return list(folders_of_images.items())


def _entries(folder: Path) -> list[str]:
    """Names in a folder; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry, _ in zip(entries, range(MOST_ENTRIES), strict=False)]
    except OSError:
        return []


def _look(folder: Path, images: Path, stems: set[str], split_names: set[str]) -> Finding | None:
    """The annotations in one folder, of the format that has most; of several COCO files the one named as the split."""
    names = [Path(name) for name in _entries(folder)]
    of_images = [name for name in names if name.stem in stems]
    xml = sum(name.suffix.lower() == ".xml" for name in of_images)
    labelme = sum(name.suffix.lower() == ".json" for name in of_images)
    if xml or labelme:
        text = f"{xml} .xml files of Pascal VOC" if xml >= labelme else f"{labelme} .json files of LabelMe"
        return Finding(folder, images, text, max(xml, labelme))
    candidates = sorted(folder / name for name in names if name.suffix.lower() == ".json")[:MOST_JSON_FILES]
    collected = [file for file in candidates if _is_coco(file)]
    if not collected:
        return None
    named_alike = [file for file in collected if any(name in file.stem.lower() for name in split_names)]
    chosen = (named_alike or collected)[0]
    return Finding(chosen, images, f"the COCO file {chosen.name}", 1)


def _is_coco(file: Path) -> bool:
    """Tell whether a JSON file begins like one of COCO's."""
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError:
        return False
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and any(key in head for key in COCO_KEYS)
