"""From annotation files to label files, lists of images and a data set YAML."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from data.scripts.annotations import yaml_file
from data.scripts.annotations.class_counts import check_names, log_table
from data.scripts.annotations.coco_json import is_coco, read_coco
from data.scripts.annotations.image_index import ImageIndex
from data.scripts.annotations.labelme_json import is_labelme, read_labelme
from data.scripts.annotations.records import AnnotatedImage, Annotations, MarkedObject, Tally, read_json
from data.scripts.annotations.voc_xml import read_voc
from data.scripts.converters.label_files import box_line, join_rings, polygon_line, write_labels
from utils.commands.next_steps import log_next
from utils.commands.options import command_line
from utils.dataset.images import inspect_image
from utils.dataset.labels import img2label_paths
from utils.dataset.splits import split_images
from utils.errors import InputError, MissingFileError
from utils.log import LOGGER, colorstr
from utils.storage.files import make_folder
from utils.training.options import TrainOptions

if TYPE_CHECKING:
    from data.scripts.convert_labels import ConvertOptions

SUFFIXES = (".json", ".xml")
ASPECT_TOLERANCE = 0.01  # by which the sides of an image and of its annotation may disagree


@dataclass
class LabelledImage:
    """An image that has been found, with the lines of its label file and the number of objects of each class."""

    file: Path
    lines: list[str]
    counts: dict[str, int] = field(default_factory=dict)


def convert(options: ConvertOptions) -> Path:
    """Convert the annotations of ``options``; returns the data set YAML.

    Raises:
        InputError: a source cannot be read, nothing is left of it, or label files are there that differ. Nothing has
            been written then.
    """
    tally = Tally()
    sources = {"train": options.source, "val": options.val, "test": options.test}
    annotations = {split: _read(files, options, tally) for split, files in sources.items() if files}
    names = list(options.names) or _joined_names(annotations.values())
    if not names:
        raise InputError(f"{options.source[0]}: no object is marked in any of its images")
    labelled: dict[str, list[LabelledImage]] = {}
    label_files: dict[str, Path] = {}  # label file -> its image: of all splits together
    for split, content in annotations.items():
        index = ImageIndex(_image_folders(options, sources[split]))
        labelled[split] = _label(content, index, names, options.segments, label_files, tally)
        if not labelled[split]:
            tally.report()
            raise InputError(f"no image of {sources[split][0]} was found: name their folder with --images")
    check_names(names, annotations.values(), chosen=bool(options.names))
    if not any(image.lines for image in _all(labelled)):
        tally.report()
        raise InputError(f"{options.source[0]}: no object is left to write, see above")
    parts = _divide(labelled, options)
    folder = Path(options.output or _folder_of(options.source[0]))
    described = yaml_file.describe(folder, parts, names)
    if not options.overwrite:
        _check_existing(labelled)
        yaml_file.check_unused(folder / yaml_file.FILE_NAME, described)
    written = _write_labels(_all(labelled))
    description = yaml_file.write_description(make_folder(folder), parts, described)
    tally.report()
    log_table(parts, {os.path.abspath(image.file): image.counts for image in _all(labelled)}, names)
    LOGGER.info(
        f"{written} label files written; data set described in {colorstr('bold', str(description))}; images of each "
        f"split listed in {', '.join(f'{split}.txt' for split in parts)}"
    )
    log_next(command_line("train.py", TrainOptions, {"weights": "yolov5n.pt", "data": str(description)}))
    return description


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(sources: Sequence[str], options: ConvertOptions, tally: Tally) -> Annotations:
    """All annotations of the sources of one split; a file in a folder that cannot be read is named and left out."""
    content = Annotations()
    for source in sources:
        path = Path(source)
        if not path.exists():
            raise MissingFileError(f"no such file or folder: {source}")
        files = [path] if path.is_file() else _annotation_files(path)
        if not files:
            raise InputError(f"{source} holds no .xml and no .json files: name the folder of the annotations")
        before = len(content.images)
        for file in tqdm(files, desc=f"Reading {path.name}", unit="files", disable=None if len(files) > 1 else True):
            try:
                read = _read_file(file, options.skip_difficult, tally)
            except InputError as error:
                if path.is_file():
                    raise
                tally.add("files cannot be read as annotations and are left out", error)
                continue
            content.images += read.images
            content.names += read.names
        if len(content.images) == before:
            tally.report()
            raise InputError(f"{source} holds no annotations of images in COCO JSON, VOC XML or LabelMe JSON")
    return content


def _annotation_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _read_file(file: Path, skip_difficult: bool, tally: Tally) -> Annotations:
    """One annotation file, of the format that its content shows."""
    if file.suffix.lower() == ".xml":
        return read_voc(file, tally, skip_difficult)
    content = read_json(file)
    if is_coco(content):
        return read_coco(file, content, tally)
    if is_labelme(content):
        return read_labelme(file, content, tally)
    raise InputError(
        f"{file} is neither a COCO file (images, annotations, categories) nor a LabelMe file (shapes): "
        "COCO JSON, LabelMe JSON and VOC XML can be converted"
    )


def _joined_names(contents: Iterable[Annotations]) -> list[str]:
    """The classes of all splits: in the order of a single COCO file, else by the alphabet."""
    listed = [content.names for content in contents]
    joined = dict.fromkeys(name for names in listed for name in names)
    for names in listed:
        if list(dict.fromkeys(names)) == list(joined) and len(names) == len(joined):
            return names
    return sorted(joined)


def _image_folders(options: ConvertOptions, sources: Sequence[str]) -> list[Path]:
    """The folders to look for images in: those of --images, or of the sources, and above these while there is none."""
    if options.images:
        for folder in options.images:
            if not Path(folder).is_dir():
                raise MissingFileError(f"--images {folder}: there is no such folder")
        return [Path(folder) for folder in options.images]
    folders = list(dict.fromkeys(_folder_of(source).resolve() for source in sources))
    return [folder if ImageIndex([folder]).images else folder.parent for folder in folders]


def _folder_of(source: str) -> Path:
    path = Path(source)
    return path if path.is_dir() else path.parent


# -- labels ------------------------------------------------------------------------------------------------------------


def _label(
    content: Annotations,
    index: ImageIndex,
    names: Sequence[str],
    segments: bool,
    label_files: dict[str, Path],
    tally: Tally,
) -> list[LabelledImage]:
    """Find the images of the annotations and make their label lines; what cannot be used is counted."""
    class_indices = {name: index for index, name in enumerate(names)}
    labelled: dict[Path, LabelledImage] = {}
    for image in tqdm(content.images, desc="Converting", unit="images", disable=None):
        try:
            file = index.find(image.reference)
            width, height = _size(image, file)
        except (LookupError, InputError) as error:
            tally.add("annotated images are left out", f"{image.reference} of {image.source}: {error}")
            continue
        (label_file,) = img2label_paths([str(file.resolve())])
        if label_file in label_files and file not in labelled:
            shared = label_files[label_file] != file
            problem = "would share a label file with another image" if shared else "belong to an earlier split already"
            tally.add(f"images {problem} and are left out", file)
            continue
        label_files[label_file] = file
        entry = labelled.setdefault(file, LabelledImage(file, []))
        for marked in image.objects:
            if marked.name not in class_indices:
                tally.add("objects of classes that --names does not have are left out", f"{marked.name!r} in {file}")
                continue
            line = _line(marked, class_indices[marked.name], width, height, segments)
            box = " ".join(f"{corner:g}" for corner in marked.corners)
            label = f"{marked.name!r} in {file}, box {box} of an image of {width}x{height} pixels"
            if not line:
                tally.add("objects without area, or outside of their image, are left out", label)
            elif line in entry.lines:
                tally.add("objects are marked twice and written once", f"{marked.name!r} in {file}")
            else:
                entry.lines.append(line)
                entry.counts[marked.name] = entry.counts.get(marked.name, 0) + 1
                if _leaves_image(marked, width, height):
                    tally.add("boxes that leave their image are cut off at its edges", label)
    unannotated = len(index.images) - len(labelled)
    if labelled and unannotated > 0:
        first = next(image for image in index.images if image not in labelled)
        tally.add("images in these folders have no annotation and are left out", first, unannotated)
    return list(labelled.values())


def _size(image: AnnotatedImage, file: Path) -> tuple[int, int]:
    """Width and height in pixels that the annotation counts in. Raises InputError where the image has another shape."""
    (width, height), _ = inspect_image(file)
    if image.size == (0, 0):
        return width, height
    noted_width, noted_height = image.size
    if abs(noted_width * height - noted_height * width) > ASPECT_TOLERANCE * noted_height * width:
        raise InputError(f"it was annotated with {noted_width}x{noted_height} pixels, but has {width}x{height}")
    return image.size


def _line(marked: MarkedObject, class_index: int, width: int, height: int, segments: bool) -> str:
    """The line of a label file, '' if nothing of the object lies in the image."""
    line = box_line(class_index, marked.corners, width, height)
    if line and segments and marked.rings:
        return polygon_line(class_index, join_rings(marked.rings), width, height)
    return line


def _leaves_image(marked: MarkedObject, width: int, height: int) -> bool:
    """Tell whether more than a pixel of a box is outside."""
    left, top, right, bottom = marked.corners
    return min(left, top) < -1 or right > width + 1 or bottom > height + 1


# -- writing -----------------------------------------------------------------------------------------------------------


def _divide(labelled: Mapping[str, list[LabelledImage]], options: ConvertOptions) -> dict[str, list[str]]:
    """Split -> absolute paths of its images."""
    files = {split: [os.path.abspath(image.file) for image in images] for split, images in labelled.items()}
    if not options.split:
        return files
    val, test = [*options.split, 0.0][:2]
    return split_images(files["train"], {"train": 1 - val - test, "val": val, "test": test}, options.seed)


def _check_existing(labelled: Mapping[str, list[LabelledImage]]) -> None:
    """Raise InputError if a label file is there that holds something else."""
    for image in _all(labelled):
        path = _label_file(image.file)
        if path.exists() and path.read_bytes() != _text(image.lines).encode():
            raise InputError(
                f"{path} is there and holds other labels: nothing was written; move the old label files away, or "
                "replace them with --overwrite"
            )


def _all(labelled: Mapping[str, list[LabelledImage]]) -> list[LabelledImage]:
    """The images of all splits."""
    return [image for images in labelled.values() for image in images]


def _label_file(image: Path) -> Path:
    return Path(img2label_paths([os.path.abspath(image)])[0])


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _write_labels(images: Iterable[LabelledImage]) -> int:
    """Write the label files and return their number; an image without objects gets none, but an old one is emptied."""
    written = 0
    for image in images:
        path = _label_file(image.file)
        if image.lines or path.exists():
            write_labels(path, image.lines)
            written += 1
    return written
