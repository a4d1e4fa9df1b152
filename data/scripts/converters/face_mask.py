"""Face Mask Detection (Larxel on Kaggle, CC0 1.0): the photographs of README's tables, divided as there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from data.scripts.converters.label_files import box_line, write_labels
from utils.dataset.download import DatasetFolder
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.archives import unpack
from utils.storage.files import make_folder

ADDRESS = "https://www.kaggle.com/datasets/andrewmvd/face-mask-detection"
ARCHIVES = ("archive.zip", "face-mask-detection.zip")  # the names that Kaggle gives it
GIGABYTES = 0.9
CLASSES = {"without_mask": 0, "with_mask": 1}  # face, face_mask; masks that are worn wrongly have no class
IMAGE_COUNT = 853
OBJECTS = {"train": 2839, "val": 691}  # of the two classes, as in README's tables
CORNERS = ("xmin", "ymin", "xmax", "ymax")

# Numbers of the images: the N of maksssksksssN.png. All others are for training.
VALIDATION = """
    4 11 15 34 36 51 54 59 60 64 102 116 118 120 126 127 128 129 130 131 144 145 159 160 173 182 185 192 196 197
    210 219 221 231 237 244 246 250 252 255 258 265 268 282 285 287 292 296 297 298 302 308 315 329 341 347 349
    361 368 371 401 402 408 419 420 423 424 439 445 448 451 452 455 458 459 460 469 474 480 483 485 493 494 502
    508 511 513 520 523 536 540 559 562 567 611 641 642 647 662 672 677 680 681 690 712 716 718 722 728 732 736
    748 752 756 767 777 778 781 787 788 794 796 799 801 804 820 822 824 825 829 832 833 837 850
"""
UNUSED = """
    0 12 17 25 38 65 67 68 69 71 91 97 108 110 113 115 123 135 136 149 151 152 161 166 180 184 186 187 188 194
    202 206 213 215 216 220 225 259 261 267 271 274 288 289 294 295 299 307 313 314 317 324 326 328 334 340 344
    352 357 370 373 376 381 386 388 395 399 405 411 436 440 442 444 446 477 478 482 487 491 497 500 503 505 512
    516 517 522 526 531 532 533 547 548 555 574 576 579 585 586 587 588 589 592 595 596 598 599 602 604 612 613
    615 618 624 625 648 655 656 666 671 678 683 687 689 697 700 701 709 710 720 731 733 751 754 755 760 764 766
    786 793 797 803 805 813 817 823 842 843 846 851
"""


def fetch(folder: DatasetFolder, splits: Sequence[str]) -> None:
    """Unpack the archive that the user has put into the folder, and convert it; ``splits`` come together.

    Raises:
        InputError: there is no archive, or it lacks images.
    """
    root = folder.root
    archive = next((root / name for name in ARCHIVES if (root / name).is_file()), None)
    if archive is not None:
        folder.require_space(GIGABYTES)
        folder.step(f"unpacked {archive.name}", lambda: unpack(archive, root))
    elif not (root / "annotations").is_dir():
        raise InputError(
            f"Kaggle asks for a login, so that the photographs cannot be fetched by a command: download {ADDRESS} in a "
            f"browser (or by kaggle datasets download andrewmvd/face-mask-detection), put {ARCHIVES[0]} into {root}, "
            "and start this again"
        )
    folder.step("labels", lambda: convert(root))


def part_of(number: int) -> str:
    """The part that an image belongs to: train, val, or unused."""
    if str(number) in VALIDATION.split():
        return "val"
    return "unused" if str(number) in UNUSED.split() else "train"


def convert(root: Path) -> None:
    """Move the images to images/<part> and write their labels to labels/<part>."""
    counts: Counter[str] = Counter()
    left_out = 0
    for number in range(IMAGE_COUNT):
        part, stem = part_of(number), f"maksssksksss{number}"
        source, target = root / "images" / f"{stem}.png", root / "images" / part / f"{stem}.png"
        if source.is_file():
            os.replace(source, make_folder(target.parent) / target.name)
        elif not target.is_file():  # else moved by an earlier attempt
            raise InputError(f"{source} is missing: the archive is incomplete, download it again from {ADDRESS}")
        if part != "unused":
            lines, others = annotation_lines(root / "annotations" / f"{stem}.xml")
            write_labels(root / "labels" / part / f"{stem}.txt", lines)
            counts[part] += len(lines)
            left_out += others
    if left_out:
        LOGGER.info(f"{left_out} faces with wrongly worn masks have no label")
    if counts != OBJECTS:
        LOGGER.warning(f"WARNING: objects {dict(counts)}, expected {OBJECTS}: this is another version of the data set")


def annotation_lines(file: Path) -> tuple[list[str], int]:
    """Label lines of a VOC annotation (XML), and the number of its objects of other classes.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        tree = ElementTree.parse(file).getroot()
        width, height = (float(tree.findtext(f"size/{side}", "")) for side in ("width", "height"))
        lines, others = [], 0
        for item in tree.iter("object"):
            name = item.findtext("name", "")
            left, top, right, bottom = (float(item.findtext(f"bndbox/{corner}", "")) for corner in CORNERS)
            if name in CLASSES:
                lines.append(box_line(CLASSES[name], (left, top, right, bottom), width, height))
            else:
                others += 1
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{file} cannot be read as a VOC annotation: {error}") from error
    return [line for line in lines if line], others
