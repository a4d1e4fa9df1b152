"""Dividing images into training, validation and test, and the list files that name them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from utils.dataset import SPLITS
from utils.dataset.image_files import find_images
from utils.dataset.labels import img2label_paths
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import atomic_path, make_folder


def split_images(images: Iterable[str], shares: Mapping[str, float], seed: int = 0) -> dict[str, list[str]]:
    """Divide ``images`` at random: the same images, shares and seed give the same parts on every machine.

    Args:
        images: paths, in any order.
        shares: split -> its share of the images; the shares add up to 1. A split with a share above 0 gets one image
            at least.
        seed: of the random order.

    Raises:
        InputError: there are fewer images than splits, or the shares are not usable.
    """
    used = [name for name in shares if shares[name] > 0]
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(f"the shares of the splits must be 0 or more and add up to 1, got {dict(shares)}")
    shuffled = sorted(images)
    if len(shuffled) < len(used):
        raise InputError(f"{len(shuffled)} images cannot be divided into {' and '.join(used)}: each needs one")
    random.Random(seed).shuffle(shuffled)
    total = len(shuffled)
    parts: dict[str, list[str]] = {}
    for position, name in enumerate(used):
        others = len(used) - position - 1
        count = min(max(round(shares[name] * total), 1), len(shuffled) - others) if others else len(shuffled)
        parts[name], shuffled = sorted(shuffled[:count]), shuffled[count:]
    return parts


def write_image_list(file: str | Path, images: Iterable[str]) -> None:
    """Write one image on each line, those below the file's folder relative to it (``./``), whole or not at all."""
    path = Path(os.path.abspath(file))
    make_folder(path.parent)
    lines = []
    for image in images:
        absolute = Path(os.path.abspath(image))
        inside = absolute.is_relative_to(path.parent)
        lines.append(f"./{absolute.relative_to(path.parent).as_posix()}" if inside else str(absolute))
    with atomic_path(path) as draft:
        draft.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def autosplit(
    path: str | Path, weights: Sequence[float] = (0.9, 0.1, 0.0), annotated_only: bool = False, seed: int = 0
) -> dict[str, Path]:
    """Divide the images below a folder and write autosplit_train.txt, autosplit_val.txt, autosplit_test.txt beside it.

    Args:
        path: the folder of the images.
        weights: shares of train, val and test.
        annotated_only: leave out images without a label file.
        seed: of the random order.

    Returns:
        Split -> list file, for those splits that have images.
    """
    folder = Path(path)
    images = find_images(folder)
    if annotated_only:
        images = [image for image, label in zip(images, img2label_paths(images), strict=True) if os.path.exists(label)]
    shares = dict(zip(SPLITS, (*weights, 0.0, 0.0), strict=False))
    total = sum(shares.values())
    if total <= 0:
        raise InputError(f"the weights of the splits must be 0 or more, one of them above 0, got {tuple(weights)}")
    parts = split_images(images, {name: share / total for name, share in shares.items()}, seed)
    files = {}
    for name, part in parts.items():
        files[name] = folder.parent / f"autosplit_{name}.txt"
        write_image_list(files[name], part)
        LOGGER.info(f"{files[name]}: {len(part)} images")
    return files
