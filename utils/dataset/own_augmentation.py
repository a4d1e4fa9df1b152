"""The user's own augmentation: a function named by ``--augment``, called on each training image and its labels."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch

from utils.augmentations import box_candidates
from utils.dataset.items import EDGE_PIXELS
from utils.dataset.labels import BOX_FIELDS
from utils.errors import InputError, MissingFileError, one_line, short_repr
from utils.geometry.boxes import xywhn2xyxy, xyxy2xywhn

FORMS = "module:function or path/file.py:function"
GENERATOR = "rng"  # a parameter of this name is given a random generator
FARTHEST = 1.0  # how far outside of the image a fraction may lie, in images; pixels are beyond it


class OwnAugmentation:
    """Calls the user's function and checks what it returns.

    The function is found by its name again in each process that loads images, so it need not be picklable.

    Args:
        name: ``module:function`` or ``path/file.py:function``, relative to the working folder.
        class_count: classes of the labels are below it.

    Raises:
        InputError: there is no such function, or importing its module fails.
    """

    def __init__(self, name: str, class_count: int) -> None:
        self.name, self.class_count = name, class_count
        self._source = _absolute(name)
        self._function: Callable[..., Any] | None = load_function(self._source)
        self._takes_generator = _takes_generator(self._function)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_function": None}

    def __call__(self, image: np.ndarray, labels: np.ndarray, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Augment one image.

        ``random`` and ``numpy.random`` are expected to be seeded for the image; what the function draws changes no
        random numbers outside of it.

        Args:
            image: (H, W, 3 or 4) uint8 BGR; a fourth channel is dropped.
            labels: (N, 5) float32: class, centre x, centre y, width, height, as fractions of the image.
            path: of the image, for messages.

        Returns:
            The new image (H, W, 3) and its labels (M, 5), clipped to the image, without boxes too small to learn from.

        Raises:
            InputError: the function fails, or returns something else.
        """
        if self._function is None:
            self._function = load_function(self._source)
        height, width = image.shape[:2]
        try:
            with _random_numbers() as generator:
                arguments = {GENERATOR: generator} if self._takes_generator else {}
                result = self._function(_three_channels(image), labels.copy(), **arguments)
        except Exception as error:
            raise self._refusal(path, _failure(error, self._function)) from error
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise self._refusal(path, f"expected (image, labels) to be returned, got {_described(result)}")
        new_image, new_labels = result
        if not _is_image(new_image, (height, width, 3)):
            expected = f"expected an image of shape ({height}, {width}, 3) and type uint8"
            raise self._refusal(path, f"{expected} to be returned, got {_described(new_image)}")
        return np.ascontiguousarray(new_image), clipped_labels(self._checked(new_labels, path), width, height)

    def _checked(self, labels: Any, path: str) -> np.ndarray:
        """Labels as a new array (M, 5) float32. Raises InputError for those that no image can have."""
        try:
            rows = np.array(labels, np.float32)
        except (TypeError, ValueError) as error:
            raise self._refusal(path, f"expected labels of shape (N, 5), got {_described(labels)}") from error
        if rows.size == 0:
            return np.zeros((0, BOX_FIELDS), np.float32)
        if rows.ndim != 2 or rows.shape[1] != BOX_FIELDS:
            raise self._refusal(path, f"expected labels of shape (N, 5), got shape {rows.shape}")
        classes, boxes = rows[:, 0], rows[:, 1:]
        known = (classes >= 0) & (classes < self.class_count) & (classes == np.floor(classes))  # (N,), false for NaN
        fractions = ((boxes >= -FARTHEST) & (boxes <= 1 + FARTHEST)).all(1) & (boxes[:, 2:] >= 0).all(1)  # (N,)
        expected = f"a class from 0 to {self.class_count - 1} first in each label"
        for good in (known, fractions):
            if not good.all():
                shown = " ".join(f"{value:g}" for value in rows[int(good.argmin())])
                raise self._refusal(path, f"expected {expected}, got {shown}")
            expected = "centre x, centre y, width and height as fractions of the image, from 0 to 1"
        return rows

    def _refusal(self, path: str, message: str) -> InputError:
        return InputError(f"--augment {self.name}, on a training image made of {path}: {message}")


def clipped_labels(labels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Clip labels (N, 5) to their image and drop what is too small then, by the rule for warped boxes.

    ``labels``: class, centre x, centre y, width, height as fractions; those that lie inside stay as they are.
    ``width``, ``height``: of the image in pixels.
    """
    boxes = xywhn2xyxy(labels[:, 1:], width, height)  # (N, 4) corners in pixels
    clipped = boxes.clip(0, (width, height, width, height))
    crosses = (np.abs(boxes - clipped) > EDGE_PIXELS).any(1)  # (N,), the edge of the image
    labels[crosses, 1:] = xyxy2xywhn(clipped[crosses], w=width, h=height, clip=True, eps=EDGE_PIXELS)
    return labels[box_candidates(boxes.T, clipped.T)]


def _three_channels(image: np.ndarray) -> np.ndarray:
    """A copy of an image (H, W, 3 or 4) without its fourth channel; OpenCV drops it much faster than a slice."""
    return image.copy() if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)


@contextmanager
def _random_numbers() -> Iterator[np.random.Generator]:
    """Give the block a generator seeded from ``random``, and torch's the same seed; afterwards put all states back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = random.getrandbits(32)
    torch.default_generator.manual_seed(seed)
    try:
        yield np.random.default_rng(seed)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


# -- finding the function --------------------------------------------------------------------------------------------


def load_function(name: str) -> Callable[..., Any]:
    """Import the function that ``module:function`` or ``path/file.py:function`` names.

    Its folder (for a module: the working folder) is added to the end of ``sys.path``, so that it can import its own
    neighbours.

    Raises:
        InputError: the name has another form, or the module or the function cannot be had.
        MissingFileError: there is no such file.
    """
    module_name, _, function_name = name.rpartition(":")
    if not module_name or not function_name.isidentifier():
        raise InputError(f"--augment takes {FORMS}, got {short_repr(name)}")
    is_file = _is_file_name(module_name)
    if is_file and not Path(module_name).is_file():
        raise MissingFileError(f"--augment {name}: there is no file {module_name}")
    folder = str(Path(module_name).parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        module = _import_file(Path(module_name)) if is_file else importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"--augment {name}: importing {module_name} fails with {type(error).__name__}: {one_line(error)}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise InputError(
            f"--augment {name}: {module_name} has no function {function_name}; its functions are "
            f"{', '.join(functions) or 'none'}"
        )
    return function


def _is_file_name(module_name: str) -> bool:
    return module_name.endswith(".py") or "/" in module_name or os.sep in module_name


def _absolute(name: str) -> str:
    """The same name with an absolute path, if it has a path."""
    module_name, _, function_name = name.rpartition(":")
    if not _is_file_name(module_name):
        return name
    return f"{Path(module_name).expanduser().absolute()}:{function_name}"


def _import_file(path: Path) -> ModuleType:
    """Run a Python file as a module whose name cannot hide another's."""
    module_name = f"own_augmentation_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def _takes_generator(function: Callable[..., Any]) -> bool:
    """Tell whether a function has a parameter for the random generator; built-in ones may not say."""
    try:
        return GENERATOR in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


# -- messages --------------------------------------------------------------------------------------------------------


def _is_image(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape == shape


def _described(value: Any) -> str:
    """A value in a few words: of arrays type and shape."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    return short_repr(value)


def _failure(error: Exception, function: Callable[..., Any]) -> str:
    """An error of the user's function in one line, with the line of its file."""
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" in line {lines[-1]} of {file}" if lines else ""
    return f"the function fails{where} with {type(error).__name__}: {one_line(error)}"
