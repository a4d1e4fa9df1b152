"""VOC's annotation files: one XML file for each image, as LabelImg, CVAT and Roboflow write them."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from data.scripts.annotations.records import AnnotatedImage, Annotations, MarkedObject, Tally, whole_size
from utils.errors import InputError, one_line, short_repr

CORNERS = ("xmin", "ymin", "xmax", "ymax")
MOST_BYTES = 16 << 20  # of one file


def read_voc(file: Path, tally: Tally, skip_difficult: bool = False) -> Annotations:
    """Read the annotation of one image; corners are taken as they are, as pixels from the upper left corner.

    Raises:
        InputError: the file is not an annotation in XML.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise InputError(f"{file} has more than {MOST_BYTES >> 20} MB: it is not the annotation of one image")
        root = ElementTree.parse(file).getroot()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{file} is not XML ({one_line(error)}): it may be incomplete, export it again") from error
    if root.tag != "annotation":
        raise InputError(f"{file} is not a VOC annotation: its root is <{root.tag[:40]}>, expected <annotation>")
    objects = []
    for item in root.iter("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            tally.add("objects without a name are left out", file)
        elif skip_difficult and (item.findtext("difficult") or "").strip() == "1":
            tally.add("difficult objects are left out", file)
        else:
            corners = [_number(item.findtext(f"bndbox/{side}")) for side in CORNERS]
            if any(math.isnan(corner) for corner in corners):
                texts = [item.findtext(f"bndbox/{side}") for side in CORNERS]
                tally.add("objects without a box are left out", f"{file}: {name} with {short_repr(texts)}")
            else:
                left, top, right, bottom = corners
                objects.append(MarkedObject(name, (left, top, right, bottom)))
    reference = (root.findtext("filename") or "").strip() or file.stem
    size = whole_size(root.findtext("size/width"), root.findtext("size/height"))
    names = sorted({marked.name for marked in objects})
    return Annotations([AnnotatedImage(reference, size, tuple(objects), file)], names)


def _number(text: str | None) -> float:
    """A finite number, NaN for anything else."""
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
