"""The names that programs written for YOLOv5 v6.2 import from here; nothing in this project imports this file.

Most are re-exported from the module where they live. The small functions below have no other user.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from utils.checkpoint import intersect_dicts
from utils.checks import check_file, check_img_size, check_suffix, check_yaml
from utils.dataset.description import check_dataset
from utils.dataset.download import fetch_all as download
from utils.dataset.labels import class_weights as labels_to_class_weights
from utils.detection.display import display_problem
from utils.device import seed_everything
from utils.downloads import url_name as url2file
from utils.errors import InputError, short_repr
from utils.geometry.boxes import box_iou, clip_coords, scale_coords, xywh2xyxy, xywhn2xyxy, xyxy2xywh, xyxy2xywhn
from utils.geometry.nms import non_max_suppression
from utils.geometry.segments import resample_segments, segment2box, segments2boxes, xyn2xy
from utils.installation import import_own
from utils.log import LOGGER, colorstr
from utils.log import setup_logging as set_logging
from utils.other_versions import Profile, apply_classifier, clean_str, is_ascii, plot_one_box
from utils.plots import save_one_box
from utils.resources import usable_cores
from utils.storage.files import ROOT, increment_path, write_yaml
from utils.storage.files import read_yaml as yaml_load
from utils.training.evolve import Evolution
from utils.training.optim import one_cycle
from utils.validation.coco_json import COCO_CATEGORIES

__all__ = [
    "DATASETS_DIR",
    "LOGGER",
    "NUM_THREADS",
    "ROOT",
    "Profile",
    "apply_classifier",
    "box_iou",
    "check_amp",
    "check_dataset",
    "check_file",
    "check_git_status",
    "check_img_size",
    "check_imshow",
    "check_requirements",
    "check_suffix",
    "check_version",
    "check_yaml",
    "clean_str",
    "clip_boxes",
    "clip_coords",
    "coco80_to_coco91_class",
    "colorstr",
    "cv2",
    "download",
    "emojis",
    "file_size",
    "get_latest_run",
    "increment_path",
    "init_seeds",
    "intersect_dicts",
    "is_ascii",
    "labels_to_class_weights",
    "labels_to_image_weights",
    "logging",
    "make_divisible",
    "methods",
    "non_max_suppression",
    "one_cycle",
    "plot_one_box",
    "print_args",
    "print_mutation",
    "resample_segments",
    "save_one_box",
    "scale_boxes",
    "scale_coords",
    "segment2box",
    "segments2boxes",
    "set_logging",
    "strip_optimizer",  # noqa: F822
    "url2file",
    "xyn2xy",
    "xywh2xyxy",
    "xywhn2xyxy",
    "xyxy2xywh",
    "xyxy2xywhn",
    "yaml_load",
    "yaml_save",
]

DATASETS_DIR = ROOT.parent / "datasets"
NUM_THREADS = min(8, max(1, usable_cores() - 1))  # v6.2's number of threads
clip_boxes, scale_boxes = clip_coords, scale_coords  # their names in v7.0

MIB = 1 << 20
AMP_IMAGE_SIDE = 640  # pixels
AMP_TOLERANCE = 0.1  # of the image's side for boxes, of 1 for confidences

# Names that live above this folder: imported on first use, so that nothing here depends on them
_ELSEWHERE = {"strip_optimizer": "models.loading"}


def __getattr__(name: str) -> Any:
    """Return a name of ``_ELSEWHERE``."""
    if name in _ELSEWHERE:
        return getattr(import_own(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# -- checks ------------------------------------------------------------------------------------------------------------


def check_amp(model: nn.Module) -> bool:
    """Return True if ``model``, a DetectionModel on a GPU, detects the same in mixed as in full precision.

    Compared are its detections on an image of coloured stripes; on other devices the answer is False, as in v6.2.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        return False
    stripes = torch.arange(AMP_IMAGE_SIDE, device=device) // 32 % 4 / 3  # (640,) in 0..1
    across = stripes.expand(AMP_IMAGE_SIDE, -1)  # (H, W)
    image = torch.stack((across, across.T, across.flip(1)))[None]  # (1, 3, H, W)
    was_training = model.training
    detections = []
    try:
        for mixed in (False, True):
            with torch.no_grad(), torch.autocast(device.type, enabled=mixed):
                output = model.eval()(image)[0].float()  # (1, N, 5 + nc)
            if not output.isfinite().all():
                return False
            detections.append(non_max_suppression(output)[0])  # (n, 6): x1, y1, x2, y2, confidence, class
    finally:
        model.train(was_training)
    full, half = detections
    scale = full.new_tensor([AMP_IMAGE_SIDE] * 4 + [1, 1])
    return full.shape == half.shape and torch.allclose(full / scale, half / scale, atol=AMP_TOLERANCE)


def check_git_status(*_: object) -> None:
    """Log that updates are not looked for: this project makes no network request that nobody asked for."""
    LOGGER.info(colorstr("github: ") + "updates are not looked for; `git fetch` shows them")


def check_imshow() -> bool:
    """Return True if windows can be opened; otherwise log why not."""
    problem = display_problem()
    if problem:
        LOGGER.warning(f"pictures cannot be shown: {problem}")
    return not problem


def check_requirements(
    requirements: str | Path | Sequence[str] = ROOT / "requirements.txt",
    exclude: Iterable[str] = (),
    install: bool = False,
    cmds: str | Sequence[str] = (),
) -> None:
    """Warn of packages that are missing or of other versions. Unlike v6.2 this never installs any.

    Args:
        requirements: a requirements file, or one or several requirements such as ``torch>=2.6``.
        exclude: names of packages to leave out.
        install, cmds: v6.2's parameters, without effect.
    """
    if isinstance(requirements, (str, Path)) and Path(requirements).suffix == ".txt":
        lines = Path(check_file(requirements)).read_text(encoding="utf-8").splitlines()
    else:
        lines = [str(requirements)] if isinstance(requirements, (str, Path)) else list(requirements)
    stated = [line.partition("#")[0].strip() for line in lines]
    left_out = {name.lower() for name in exclude}
    missing = [line for line in stated if line and not line.startswith("-") and not _is_satisfied(line, left_out)]
    if missing:
        quoted = " ".join(f'"{line}"' for line in missing)
        LOGGER.warning(f"{colorstr('requirements:')} {', '.join(missing)} missing: pip install {quoted}")


def _is_satisfied(line: str, exclude: set[str]) -> bool:
    """Tell whether the package of a requirement is installed in a version that fits, or need not be."""
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    if requirement.name.lower() in exclude or (requirement.marker and not requirement.marker.evaluate()):
        return True
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def check_version(
    current: str = "0.0.0",
    minimum: str = "0.0.0",
    name: str = "version ",
    pinned: bool = False,
    hard: bool = False,
    verbose: bool = False,
) -> bool:
    """Return True if a version is at least ``minimum``; with ``pinned``, if it equals it. Labels after + do not count.

    Too old a one is logged with ``verbose``, and raises InputError with ``hard``.
    """
    from packaging.version import Version

    present = Version(current.partition("+")[0])
    needed = Version(minimum)
    if present == needed if pinned else present >= needed:
        return True
    problem = f"{name}{minimum} is required, but {name}{current} is installed"
    if hard:
        raise InputError(f"{problem}: install {name}{minimum}")
    if verbose:
        LOGGER.warning(problem)
    return False


# -- files and texts ---------------------------------------------------------------------------------------------------


def emojis(text: str = "") -> str:
    """``text``, on Windows without the characters that are not ASCII."""
    return text.encode().decode("ascii", "ignore") if platform.system() == "Windows" else text


def file_size(path: str | Path) -> float:
    """MiB of a file, or of all files below a folder; 0 if there is none."""
    root = Path(path)
    files = root.rglob("*") if root.is_dir() else [root]
    return sum(file.stat().st_size for file in files if file.is_file()) / MIB


def get_latest_run(search_dir: str | Path = ".") -> str:
    """The youngest checkpoint last*.pt below a folder, '' if there is none."""
    return max((str(file) for file in Path(search_dir).rglob("last*.pt")), key=os.path.getctime, default="")


def yaml_save(file: str | Path = "data.yaml", data: Mapping[str, Any] | None = None) -> None:
    """Write a mapping as YAML in its order, paths as text."""
    write_yaml(file, {key: str(value) if isinstance(value, Path) else value for key, value in (data or {}).items()})


# -- training ----------------------------------------------------------------------------------------------------------


def init_seeds(seed: int = 0, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch; with ``deterministic`` torch refuses operations whose results vary."""
    seed_everything(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def labels_to_image_weights(
    labels: Sequence[np.ndarray], nc: int = 80, class_weights: np.ndarray | None = None
) -> np.ndarray:
    """The weight (n,) of each image: the sum of its labels' class weights, by default 1.

    Args:
        labels: of each image (number of labels, 1 or more), the class first.
        nc: number of classes.
        class_weights: (nc,).
    """
    counts = np.array([np.bincount(rows[:, 0].astype(int), minlength=nc) for rows in labels])  # (n, nc)
    return counts @ (np.ones(nc) if class_weights is None else class_weights)


def print_mutation(
    results: Sequence[float], hyp: dict[str, float], save_dir: str | Path, bucket: str = "", prefix: str = ""
) -> None:
    """Add a generation to evolve.csv and hyp_evolve.yaml in ``save_dir`` and log it.

    Args:
        results: P, R, mAP50, mAP50-95 and the three validation losses.
        hyp: the hyperparameters that gave them.
        save_dir: folder of the evolution.
        bucket: v6.2's Google storage; must be empty.
        prefix: start of the log line.

    Raises:
        InputError: a ``bucket``, or a record of other hyperparameters in the folder.
    """
    if bucket:
        raise InputError(f"bucket {short_repr(bucket)}: Google storage is not offered; copy {save_dir} with gsutil")
    Evolution(Path(save_dir), hyp, anchors="anchors" in hyp).record(hyp, results)
    values = ", ".join(f"{name} {value:.5g}" for name, value in hyp.items())
    LOGGER.info(f"{prefix or colorstr('evolve: ')}{' '.join(f'{value:.4g}' for value in results)} with {values}")


# -- other -------------------------------------------------------------------------------------------------------------


def coco80_to_coco91_class() -> list[int]:
    """COCO's category ids (1 to 90, with gaps) of the 80 classes."""
    return list(COCO_CATEGORIES)


def make_divisible(x: float, divisor: int | torch.Tensor) -> int:
    """``x`` rounded up to a multiple of ``divisor``, of the largest of several."""
    step = int(divisor.max()) if isinstance(divisor, torch.Tensor) else divisor
    return math.ceil(x / step) * step


def methods(instance: object) -> list[str]:
    """Names of an object's methods, those with two leading underscores left out."""
    return [name for name in dir(instance) if callable(getattr(instance, name)) and not name.startswith("__")]


def print_args(args: Mapping[str, Any] | None = None, show_file: bool = True, show_func: bool = False) -> None:
    """Log the arguments of the function that calls this, or ``args``, in one line."""
    caller: FrameType = inspect.currentframe().f_back  # type: ignore[union-attr, assignment]
    if args is None:
        names, _, _, values = inspect.getargvalues(caller)
        args = {name: values[name] for name in names}
    file = Path(caller.f_code.co_filename).stem if show_file else ""
    function = caller.f_code.co_name if show_func else ""
    title = ": ".join(word for word in (file, function) if word)
    LOGGER.info(colorstr(f"{title}: " if title else "") + ", ".join(f"{key}={value}" for key, value in args.items()))
