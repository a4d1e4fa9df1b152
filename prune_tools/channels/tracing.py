"""Follow every channel of a network through one forward pass.

Each convolution gives its output channels new identities; norms, activations, pooling, concatenation and the like pass
them on, an addition merges two into one. The result is a ``Trace``: the steps in execution order, the identities of
every tensor, and which module produces, scales or reads which identity. It depends on no names or row numbers of a
configuration, so any network made of known operations can be followed. Channels that reach an unknown operation cannot
be removed, and its name is given as the reason.

The pass runs under a ``TorchFunctionMode``, which sees every torch call, whatever Python code made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from prune_tools.channels import operations
from prune_tools.channels.operations import Vectors
from utils.errors import InputError
from utils.model_info import blank_image, grid_size

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
LEAST_IMAGE_SIZE = 64  # pixels; enough for stride 64


@dataclass
class Touch:
    """One module acting on channels: ``channels[j]`` is the identity of the module's channel ``j``, (C,) int64.

    ``role`` is 'output' (the module produces them), 'norm' (it scales and shifts them), 'depthwise' (it filters each
    one separately) or 'input' (it reads them all).
    """

    path: str
    role: str
    channels: np.ndarray


@dataclass
class Step:
    """One operation: numbers of the tensors it reads and of the one it makes (-1: none that is followed).

    ``kind`` is 'convolution' or 'norm' (``name`` is the module's path), 'activation', 'linear' or 'end' (``name`` is
    the operation). ``apply`` computes an activation or a linear step on vectors with one value per channel.
    ``module_path`` is that of the innermost module that was running.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    output: int
    apply: Callable[[Vectors], torch.Tensor] | None = None
    module_path: str = ""


@dataclass
class Trace:
    """Record of one forward pass. An identity is a number; channels with the same one can only be removed together.

    Attributes:
        steps: the operations in execution order.
        tensors: (C,) int64 for each tensor, the identities of its channels.
        touches: modules acting on channels, in execution order.
        reasons: by identity, why it cannot be removed.
        added: identities that went through an addition.
    """

    steps: list[Step] = field(default_factory=list)
    tensors: list[np.ndarray] = field(default_factory=list)
    touches: list[Touch] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    added: set[int] = field(default_factory=set)

    def fix(self, channels: Iterable[int], reason: str) -> None:
        """Keep ``channels`` from being removed; the first reason counts."""
        for channel in channels:
            self.reasons.setdefault(int(channel), reason)

    def renumber(self, roots: np.ndarray) -> None:
        """Replace identity ``i`` by ``roots[i]`` everywhere; of merged identities the first reason counts."""
        self.tensors = [roots[channels] for channels in self.tensors]
        for touch in self.touches:
            touch.channels = roots[touch.channels]
        reasons, self.reasons = self.reasons, {}
        for channel, reason in reasons.items():
            self.fix([roots[channel]], reason)
        self.added = {int(roots[channel]) for channel in self.added}


class Identities:
    """Identities under construction: a union-find forest, in which ``merge`` makes two of them one."""

    def __init__(self) -> None:
        self.parents: list[int] = []

    def new(self, count: int) -> np.ndarray:
        """``count`` new identities."""
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def root(self, identity: int) -> int:
        """The smallest of the identities merged with this one."""
        while self.parents[identity] != identity:
            self.parents[identity] = self.parents[self.parents[identity]]
            identity = self.parents[identity]
        return identity

    def merge(self, first: Iterable[int], second: Iterable[int]) -> None:
        """Make each pair one."""
        for one, other in zip(first, second, strict=True):
            low, high = sorted((self.root(int(one)), self.root(int(other))))
            self.parents[high] = low

    def roots(self) -> np.ndarray:
        """The root of every identity."""
        return np.array([self.root(identity) for identity in range(len(self.parents))], dtype=np.int64)


@dataclass
class Feature:
    """A tensor that is followed: ``gated[j]`` is True if channel j is zero once gamma and beta of its norms are."""

    tensor: torch.Tensor  # kept alive, so that its id is not reused
    number: int
    channels: np.ndarray
    gated: np.ndarray


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def is_depthwise(module: nn.Module) -> bool:
    """Tell whether a convolution filters each of its several channels separately."""
    return isinstance(module, CONVOLUTIONS) and 1 < module.groups == module.in_channels == module.out_channels


class Tracer(TorchFunctionMode):
    """Records what happens to channels (dimension 1 of maps) while it is active."""

    def __init__(self, model: nn.Module) -> None:
        """Prepare to recognise the modules of ``model`` by their weights."""
        super().__init__()
        self.trace = Trace()
        self.identities = Identities()
        self.features: dict[int, Feature] = {}
        self.modules = dict(model.named_modules())
        self.paths: dict[int, str] = {}  # id of a weight -> path of its module
        self.calls: Counter[str] = Counter()
        self.running: list[str] = []  # paths of the modules that are being called, outermost first
        for path, module in self.modules.items():
            if isinstance(module, (*CONVOLUTIONS, nn.modules.batchnorm._BatchNorm)) and module.weight is not None:
                known = self.paths.setdefault(id(module.weight), path)
                if known != path:
                    self.calls[known] += 1  # two modules with one weight count as one that runs twice

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the call and record it if it concerns a tensor that is followed."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operation = operations.name_of(func)
        path = self._module_path(operation, args, kwargs)
        followed = [self.features[id(tensor)] for tensor in tensors_in([args, kwargs]) if id(tensor) in self.features]
        if not isinstance(result, torch.Tensor) and not any(True for _ in tensors_in(result)):
            if operation in operations.READS_VALUES:
                self._end(followed, operation)
            if operation == "setitem":
                self._end(followed, "assignment to a slice")
            return result
        if path is not None:
            self._module(path, args[0], result)
        elif followed:
            self._operation(operation, func, args, kwargs, followed, result)
        return result

    def _module_path(self, operation: str, args: tuple, kwargs: dict[str, Any]) -> str | None:
        """The module whose weight this call uses, if it is a convolution or a norm of the model."""
        if operation not in operations.MODULE_CALLS:
            return None
        return next((self.paths[id(item)] for item in tensors_in([args[1:], kwargs]) if id(item) in self.paths), None)

    def follow(self, tensor: torch.Tensor, channels: np.ndarray, gated: np.ndarray) -> int:
        """Register ``tensor`` with its channels and return its number."""
        number = len(self.trace.tensors)
        self.trace.tensors.append(channels)
        self.features[id(tensor)] = Feature(tensor, number, channels, gated)
        return number

    def feature_of(self, tensor: torch.Tensor) -> Feature:
        """The record of ``tensor``; one of unknown origin gets channels that cannot be removed."""
        if id(tensor) not in self.features:
            channels = self.identities.new(tensor.shape[1])
            self.trace.fix(channels, "it comes out of an operation that cannot be followed")
            self.follow(tensor, channels, np.zeros(len(channels), dtype=bool))
        return self.features[id(tensor)]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep ``running`` up to date while the block runs."""

        def leave(*_: Any) -> None:
            self.running.pop()

        handles = []
        for path, module in self.modules.items():
            handles.append(module.register_forward_pre_hook(lambda *_, path=path: self.running.append(path)))
            handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def module_path(self) -> str:
        """The path of the innermost module that is running; '' outside of all."""
        return self.running[-1] if self.running else ""

    def _end(self, features: Sequence[Feature], operation: str) -> None:
        path = self.module_path
        where = f" of {path} ({type(self.modules[path]).__name__})" if path else ""
        for feature in features:
            self.trace.fix(feature.channels, f"it goes into {operation}{where}, where channels cannot be followed")
        numbers = tuple(feature.number for feature in features)
        self.trace.steps.append(Step("end", operation, numbers, -1, module_path=path))

    def _module(self, path: str, source: torch.Tensor, result: torch.Tensor) -> None:
        """A convolution or norm of the model ran."""
        module: Any = self.modules[path]
        feature = self.feature_of(source)
        channels, gated = feature.channels, feature.gated
        self.calls[path] += 1
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            kind, gated = "norm", np.ones_like(gated)
            self.trace.touches.append(Touch(path, "norm", channels))
        elif is_depthwise(module):
            kind = "convolution"
            self.trace.touches.append(Touch(path, "depthwise", channels))
        else:
            kind, channels = "convolution", self.identities.new(module.out_channels)
            self.trace.fix(feature.channels[~gated], "no norm, or an activation with act(0) != 0, before its reader")
            gated = np.zeros(len(channels), dtype=bool)
            self.trace.touches += [Touch(path, "input", feature.channels), Touch(path, "output", channels)]
            if module.groups > 1:
                self.trace.fix([*feature.channels, *channels], f"{path} is a convolution in {module.groups} groups")
        inputs = (feature.number,)
        number = self.follow(result, channels, gated)
        self.trace.steps.append(Step(kind, path, inputs, number, module_path=path))

    def _operation(
        self, operation: str, func: Callable, args: tuple, kwargs: dict, followed: list[Feature], result: Any
    ) -> None:
        """Any other call on tensors that are followed."""
        effect = operations.effect_of(operation, func, args, kwargs, followed[0].tensor, result)
        if effect is None:
            self._end(followed, operation)
            return
        sources = [self.feature_of(tensor) for tensor in effect.sources]
        first = sources[0]
        channels, gated = first.channels, first.gated & effect.keeps_zero
        if effect.joins:
            channels = np.concatenate([source.channels for source in sources])
            gated = np.concatenate([source.gated for source in sources])
        elif len(sources) > 1:
            self.identities.merge(first.channels, sources[1].channels)
            self.trace.added.update(map(int, [*first.channels, *sources[1].channels]))
            gated = first.gated & sources[1].gated
        elif effect.selects is not None:
            channels, gated = first.channels[effect.selects], first.gated[effect.selects]
            if len(channels) != len(first.channels) or (channels != first.channels).any():
                self.trace.fix(first.channels, f"{operation} picks channels by their position")
        inputs = tuple(source.number for source in sources)
        number = self.follow(result, channels, gated)
        self.trace.steps.append(Step(effect.kind, operation, inputs, number, effect.apply, self.module_path))

    def finish(self, output: Any) -> Trace:
        """Fix what leaves the network and what belongs to modules that ran more than once; return the trace."""
        ends = [self.features[id(tensor)] for tensor in tensors_in(output) if id(tensor) in self.features]
        if ends:
            self._end(ends, "the output of the network")
        for touch in self.trace.touches:
            if self.calls[touch.path] > 1:
                self.trace.fix(touch.channels, f"{touch.path} runs more than once")
        self.trace.renumber(self.identities.roots())
        return self.trace


def trace_model(model: nn.Module, image_size: int = 0) -> Trace:
    """Trace one forward pass of ``model`` in evaluation mode on a blank image; the model is left as it was.

    Args:
        model: a detection model; its first parameter decides on device and precision.
        image_size: side in pixels; default: the largest stride, at least 64.

    Raises:
        InputError: the model does not begin with a convolution.
    """
    image = blank_image(model, image_size or max(LEAST_IMAGE_SIZE, grid_size(model)))
    if image is None:
        raise InputError(f"a {type(model).__name__} does not begin with a convolution: expected a detection model")
    depth = image.shape[1]
    modes = {module: module.training for module in model.modules()}
    tracer = Tracer(model)
    channels = tracer.identities.new(depth)
    tracer.trace.fix(channels, "it is the input of the network")
    tracer.follow(image, channels, np.zeros(depth, dtype=bool))
    try:
        model.eval()
        with torch.no_grad(), tracer.watching(), tracer:
            output = model(image)
    finally:
        for module, training in modes.items():
            module.training = training
    return tracer.finish(output)
