"""Checks of the record that continues a run: a value of a wrong type, shape or range is an error in one line."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from utils.errors import InputError, short_repr

MERSENNE_WORDS = 624  # of NumPy's generator
CUDA_BYTES = 16  # of a GPU's generator
LARGEST_COUNT = 1 << 53
STEP = "step"  # key in an optimizer's state; the other values have the shape of their parameter
NEEDED_MOMENTS = {
    "Adam": (STEP, "exp_avg", "exp_avg_sq"),
    "AdamW": (STEP, "exp_avg", "exp_avg_sq"),
    "RMSprop": (STEP, "square_avg"),
}
OWN_SETTINGS = ("params", "fused", "foreach")  # of an optimizer's groups: those of this process count
NEEDED_SETTINGS = ("lr", "initial_lr", "weight_decay")  # the others have defaults, in files of other versions of torch


class Judge:
    """Raises InputError, naming file, field and remedy, for a value that is not as it must be."""

    def __init__(self, path: str) -> None:
        """``path`` is the checkpoint's."""
        self.path = path

    def refuse(self, name: str, problem: str) -> InputError:
        """The error of the field ``name``."""
        return InputError(
            f"{self.path} cannot be resumed, its '{name}' is damaged: {problem}; "
            "resume from another checkpoint of the run, or start a new run from its weights with --weights"
        )

    def number(self, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number in a range."""
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            limits = f" in [{low:g}, {high:g}]" if math.isfinite(low) or math.isfinite(high) else ""
            raise self.refuse(name, f"expected a number{limits}, got {_shown(value)}")
        return value

    def count(self, name: str, value: Any, low: int = 0, high: int = LARGEST_COUNT) -> int:
        """A whole number in a range."""
        if type(value) is not int or not low <= value <= high:
            raise self.refuse(name, f"expected a whole number from {low} to {high}, got {_shown(value)}")
        return value

    def flag(self, name: str, value: Any) -> bool:
        """True or false."""
        if not isinstance(value, bool):
            raise self.refuse(name, f"expected true or false, got {_shown(value)}")
        return value

    def instance(self, name: str, value: Any, expected: type | tuple[type, ...], words: str) -> Any:
        """An instance of ``expected``, which ``words`` describe."""
        if not isinstance(value, expected):
            raise self.refuse(name, f"expected {words}, got {type(value).__name__}")
        return value

    def parts(self, name: str, value: Any, count: int) -> Sequence[Any]:
        """A tuple or list of ``count`` values."""
        if not isinstance(value, (tuple, list)) or len(value) != count:
            raise self.refuse(name, f"expected {count} values, got {_shown(value)}")
        return value

    def generator(self, name: str, value: Any) -> torch.Tensor:
        """The state of a generator of torch on the CPU."""
        try:
            torch.Generator().set_state(value)
        except (RuntimeError, TypeError) as error:
            raise self.refuse(name, "it is not the state of a random generator") from error
        return value

    def alike(self, name: str, value: Any, own: Any, optional: Sequence[str] = ()) -> None:
        """Values with the keys, types and shapes of ``own``: nested mappings of tensors, numbers and strings.

        Infinity, which stands for "never", is allowed. The keys ``optional`` may hold None.
        """
        if isinstance(own, dict):
            self.instance(name, value, dict, "a mapping")
            if value.keys() != own.keys():
                raise self.refuse(name, f"expected the keys {', '.join(own)}, got {', '.join(map(str, value)):.60}")
            for key, own_value in own.items():
                if not (key in optional and value[key] is None):
                    self.alike(f"{name}: {key}", value[key], own_value, optional)
        elif isinstance(own, torch.Tensor):
            self.instance(name, value, torch.Tensor, "a tensor")
            if value.shape != own.shape or value.dtype != own.dtype or bool(value.isnan().any()):
                raise self.refuse(name, f"expected {own.dtype} of shape {tuple(own.shape)}, without NaN")
        elif type(value) is not type(own) and not (type(own) in (int, float) and type(value) in (int, float)):
            raise self.refuse(name, f"expected a {type(own).__name__}, got {type(value).__name__}")
        elif isinstance(value, float) and math.isnan(value):
            raise self.refuse(name, "it is not a number")

    def accepted(self, name: str, load: Callable[[], object], problem: str) -> None:
        """Run ``load``; an error of the library becomes one line."""
        try:
            load()
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            lines = str(error).strip().splitlines()
            reason = lines[-1].strip()[:120] if lines else type(error).__name__
            raise self.refuse(name, f"{problem} ({reason})") from error


def _shown(value: Any) -> str:
    """A value of a file, on one short line."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return short_repr(value)


@dataclass
class Counters:
    """Checked values of last.pt, other than weights, optimizer and random generators.

    ``exact`` tells whether the file has the states of the random generators, and so the fields from ``last_step`` on.
    """

    epoch: int
    best_fitness: float
    updates: int
    last_step: int = -1
    accumulate: int = 1
    best_grade: float = 0.0
    plugins: dict[str, Any] = field(default_factory=dict)
    maps: list[float] = field(default_factory=list)
    stopper: tuple[float, int, bool, bool] = (0.0, 0, False, False)
    data: dict[str, torch.Tensor] = field(default_factory=dict)  # records of the images, by split
    exact: bool = False


def judge(checkpoint: dict[str, Any], path: str) -> Counters:
    """Check what can be checked before a network is built.

    Raises:
        InputError: a damaged field, or the checkpoint is that of a finished run.
    """
    judged = Judge(path)
    epoch = checkpoint.get("epoch", -1)
    if (type(epoch) is int and epoch == -1) or checkpoint.get("optimizer") is None:
        raise InputError(
            f"{path} is of a finished run, there is nothing to resume: train from it with --weights {path}"
        )
    counters = Counters(
        epoch=judged.count("epoch", epoch),
        best_fitness=judged.number("best_fitness", _value(checkpoint, "best_fitness", 0.0), 0, 1),
        updates=judged.count("updates", _value(checkpoint, "updates", 0)),
    )
    saved = checkpoint.get("resume")
    if saved is None:
        return counters
    judged.instance("resume", saved, dict, "a mapping")
    for name in ("python", "numpy", "torch", "cuda", "loader", "scaler", "maps", "last_step", "accumulate", "stopper"):
        if name not in saved:
            raise judged.refuse("resume", f"it has no {name!r}")
    _judge_generators(judged, saved)
    fitness, best_epoch, *flags = judged.parts("stopper", saved["stopper"], 4)
    counters.stopper = (
        judged.number("stopper", fitness, -1, 1),
        judged.count("stopper", best_epoch, 0, counters.epoch),
        judged.flag("stopper", flags[0]),
        judged.flag("stopper", flags[1]),
    )
    counters.last_step = judged.count("last_step", saved["last_step"], -1)
    counters.accumulate = judged.count("accumulate", saved["accumulate"], 1)
    maps = judged.instance("maps", saved["maps"], list, "a list")
    counters.maps = [judged.number("maps", value, 0, 1) for value in maps]
    # Files of earlier versions lack the following three
    counters.best_grade = judged.number("best_grade", _value(saved, "best_grade", 0.0))
    counters.plugins = judged.instance("plugins", _value(saved, "plugins", {}), dict, "a mapping")
    counters.data = judged.instance("data", _value(saved, "data", {}), dict, "a mapping")
    for record in counters.data.values():
        if not isinstance(record, torch.Tensor) or record.dtype != torch.int64 or record.shape[1:] != (3,):
            raise judged.refuse("data", "it is not a record of images")
    counters.exact = True
    return counters


def _value(content: dict[str, Any], name: str, default: Any) -> Any:
    """The value of a key, ``default`` where it is absent or None."""
    value = content.get(name)
    return default if value is None else value


def _judge_generators(judged: Judge, saved: dict[str, Any]) -> None:
    """Try the states on new generators."""
    version, words, gauss = judged.parts("python", saved["python"], 3)
    judged.instance("python", words, tuple, "a tuple of numbers")
    fault = "it is not the state of a random generator"
    judged.accepted("python", lambda: random.Random().setstate((version, words, None)), fault)
    if gauss is not None:
        judged.number("python", gauss)
    name, keys, position, has_gauss, cached = judged.parts("numpy", saved["numpy"], 5)
    judged.instance("numpy", keys, torch.Tensor, "a tensor")
    fits = keys.dtype == torch.int64 and keys.shape == (MERSENNE_WORDS,)
    if name != "MT19937" or not fits or int(keys.min()) < 0 or int(keys.max()) >= 1 << 32 or not bool(keys.any()):
        raise judged.refuse("numpy", "it is not the state of a random generator")
    judged.count("numpy", position, 0, MERSENNE_WORDS)  # NumPy would read beyond its table
    judged.count("numpy", has_gauss, 0, 1)
    judged.number("numpy", cached)
    judged.generator("torch", saved["torch"])
    if saved["loader"] is not None:
        judged.generator("loader", saved["loader"])
    for value in judged.instance("cuda", saved["cuda"], list, "a list"):
        if not isinstance(value, torch.Tensor) or value.dtype != torch.uint8 or value.shape != (CUDA_BYTES,):
            raise judged.refuse("cuda", "it is not a list of states of random generators")
    scaler = judged.instance("scaler", saved["scaler"], dict, "a mapping")
    if scaler:
        for key in ("scale", "growth_factor", "backoff_factor"):
            judged.number("scaler", scaler.get(key), 1e-30, 1e30)
        for key in ("growth_interval", "_growth_tracker"):
            judged.count("scaler", scaler.get(key))


def check_optimizer(judged: Judge, optimizer: torch.optim.Optimizer, saved: Any) -> None:
    """Raise InputError unless ``saved`` has the groups of ``optimizer`` and states that fit its parameters."""
    name = "optimizer"
    groups = judged.instance(name, saved, dict, "a mapping").get("param_groups")
    states = judged.instance(name, saved.get("state"), dict, "a mapping as its 'state'")
    own = optimizer.param_groups
    if not isinstance(groups, list) or len(groups) != len(own):
        raise judged.refuse(name, f"expected {len(own)} groups of parameters")
    by_index: dict[Any, torch.Tensor] = {}
    for group, known in zip(groups, own, strict=True):
        indices = judged.instance(name, group, dict, "mappings as its groups").get("params")
        if not isinstance(indices, list) or len(indices) != len(known["params"]):
            raise judged.refuse(name, "its groups have other parameters than the run's")
        judged.accepted(name, lambda: by_index.update(zip(indices, known["params"], strict=True)), "wrong indices")  # noqa: B023
        for key, value in known.items():
            if key in group and key not in OWN_SETTINGS:
                _check_setting(judged, f"{name}: {key}", group[key], value)
            elif key in NEEDED_SETTINGS:
                raise judged.refuse(name, f"a group has no {key!r}")
    if len(by_index) != sum(len(known["params"]) for known in own) or not set(states) <= set(by_index):
        raise judged.refuse(name, "its states are not those of its parameters")
    needed = [*NEEDED_MOMENTS.get(type(optimizer).__name__, ())]
    needed += ["momentum_buffer"] if "square_avg" in needed and optimizer.defaults["momentum"] else []
    for index, moments in states.items():
        judged.instance(name, moments, dict, "mappings as its states")
        for key in needed:
            if moments and moments.get(key) is None:
                raise judged.refuse(name, f"a state has no {key!r}")
        for key, value in moments.items():
            _check_moment(judged, f"{name}: {key}", value, by_index[index], key == STEP)


def _check_setting(judged: Judge, name: str, value: Any, own: Any) -> None:
    """Check a setting of a group: a finite number where the run has one, the same flags, a tuple of numbers."""
    if isinstance(own, bool):
        if judged.flag(name, value) != own:
            raise judged.refuse(name, f"it is {value}, and this program has {own} there")
    elif isinstance(own, (int, float)):
        judged.number(name, value)
    elif isinstance(own, tuple):
        for number in judged.parts(name, value, len(own)):
            judged.number(name, number)


def _check_moment(judged: Judge, name: str, value: Any, parameter: torch.Tensor, is_step: bool) -> None:
    """Check one value of a parameter's state: a finite tensor of its shape, a count of steps, or None."""
    if value is None:
        return
    if is_step and not isinstance(value, torch.Tensor):
        judged.number(name, value, 0)
        return
    judged.instance(name, value, torch.Tensor, "a tensor")
    if value.shape != (torch.Size([]) if is_step else parameter.shape) or not value.is_floating_point():
        raise judged.refuse(name, f"shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")
    if not bool(value.isfinite().all()):
        raise judged.refuse(name, "it holds values that are not numbers")
