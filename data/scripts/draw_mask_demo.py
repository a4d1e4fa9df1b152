#!/usr/bin/env python3
"""Draw the demo data set: faces with and without masks, labelled in YOLO format. It needs no download.

    python data/scripts/draw_mask_demo.py                        400 images below datasets/mask_demo, in half a minute
    python data/scripts/draw_mask_demo.py --images 2000 --seed 1 --output ../datasets/mask_big

Picture i depends on nothing but the seed and i. An interrupted run continues where it stopped, and a complete set is
not drawn again. Every fifth picture is for validation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np

from data.scripts.mask_demo.scene import Label, draw_scene
from utils.commands.cli import run_command
from utils.commands.next_steps import log_next
from utils.commands.options import LARGEST_IMAGE, LARGEST_SEED, MOST, argument_parser, command_line
from utils.errors import InputError, short_repr
from utils.log import LOGGER
from utils.storage.files import WORK, atomic_path, make_folder, read_yaml, write_yaml
from utils.training.options import TrainOptions

VERSION = 2  # of the drawings: raise it when the same seed gives other pictures
SMALLEST_SIZE = 96
SETTINGS_FILE = "settings.yaml"  # tells what a folder holds, and whether all of it is there
DEFAULT_OUTPUT = WORK / "datasets" / "mask_demo"
FIRST_TRAINING = {"data": "data/mask_demo.yaml", "weights": "data/weights/drawn_faces.pt", "imgsz": 192}


@dataclass(frozen=True)
class Settings:
    """Choices that determine the data set, to the last byte (with the same versions of OpenCV and NumPy)."""

    images: int = 400
    size: int = 320  # pixels, height and width
    seed: int = 0
    version: int = VERSION

    def __post_init__(self) -> None:
        if not 2 <= self.images <= MOST:
            raise InputError(f"--images {self.images}: expected 2, one to train and one to validate, to {MOST}")
        if not SMALLEST_SIZE <= self.size <= LARGEST_IMAGE:
            raise InputError(f"--size {self.size}: expected {SMALLEST_SIZE} to {LARGEST_IMAGE} pixels")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(f"--seed {short_repr(self.seed)}: expected 0 or a positive number, at most {LARGEST_SEED}")


def split_of(index: int) -> str:
    """Say which split picture ``index`` belongs to."""
    return "val" if index % 5 == 1 else "train"


def label_line(label: Label, size: int) -> str:
    """Return ``class x_center y_center width height``, the numbers as fractions of the picture."""
    (left, top), (right, bottom) = (label[1] / size).tolist()
    return f"{label[0]} {(left + right) / 2:.6f} {(top + bottom) / 2:.6f} {right - left:.6f} {bottom - top:.6f}\n"


def draw_picture(folder: Path, index: int, settings: Settings) -> None:
    """Draw one picture and its label file, unless it is there; the picture comes last and so vouches for both."""
    image_file = folder / "images" / split_of(index) / f"demo_{index:05d}.jpg"
    if image_file.exists():
        return
    rng = np.random.default_rng([settings.seed, index])
    picture, labels = draw_scene(rng, settings.size)
    with atomic_path(folder / "labels" / split_of(index) / f"{image_file.stem}.txt", sync=False) as draft:
        draft.write_text("".join(label_line(label, settings.size) for label in labels), encoding="ascii")
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 96))]
    with atomic_path(image_file, sync=False) as draft:
        if not cv2.imwrite(str(draft), picture, quality):
            raise InputError(f"cannot write {image_file}: check the free space and the permissions of its folder")


def clear_other_set(folder: Path, settings: Settings) -> bool:
    """Make room for a set with these settings; return whether the folder already holds all of it.

    Raises InputError if the folder holds files that this script did not make.
    """
    settings_file = folder / SETTINGS_FILE
    if not settings_file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} holds files of something else: name another folder with --output, or empty it")
        return False
    recorded = read_yaml(settings_file)
    if not isinstance(recorded, dict):
        raise InputError(f"{settings_file} does not say what the folder holds: delete {folder} and try again")
    complete = bool(recorded.pop("complete", False))
    if recorded == asdict(settings):
        return complete
    for stale in [*folder.glob("images/*/demo_*.jpg"), *folder.glob("labels/*/demo_*.txt")]:
        stale.unlink()
    return False


def draw(output: str | Path = DEFAULT_OUTPUT, settings: Settings | None = None) -> Path:
    """Draw the data set below ``output`` unless it is complete there, and return that folder."""
    from tqdm import tqdm

    settings = settings or Settings()
    folder = Path(output)
    if clear_other_set(folder, settings):
        LOGGER.info(f"{folder} already holds the {settings.images} demo images")
        return folder
    for name in ("images/train", "images/val", "labels/train", "labels/val"):
        make_folder(folder / name)
    write_yaml(folder / SETTINGS_FILE, asdict(settings) | {"complete": False})
    for index in tqdm(range(settings.images), desc=f"Drawing {folder}", unit="images", disable=None):
        draw_picture(folder, index, settings)
    write_yaml(folder / SETTINGS_FILE, asdict(settings) | {"complete": True})
    LOGGER.info(f"{settings.images} images with labels are in {folder}")
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and draw."""
    parser = argument_parser("Draw faces with and without masks, with labels in YOLO format.")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="folder to fill, default: %(default)s")
    parser.add_argument("--images", type=int, default=Settings.images, help="number of pictures (default %(default)s)")
    parser.add_argument("--size", type=int, default=Settings.size, help="height and width (default %(default)s)")
    parser.add_argument("--seed", type=int, default=Settings.seed, help="another seed, other pictures")
    options = parser.parse_args(arguments)
    folder = draw(options.output, Settings(options.images, options.size, options.seed))
    if folder.resolve() == DEFAULT_OUTPUT.resolve():  # the folder that data/mask_demo.yaml describes
        log_next(command_line("train.py", TrainOptions, FIRST_TRAINING))
    else:
        LOGGER.info(f"To train on them, copy data/mask_demo.yaml and give it this line: path: {folder.resolve()}")


def cli() -> None:
    """Run the command with the words of the command line."""
    run_command(main)


if __name__ == "__main__":
    cli()
