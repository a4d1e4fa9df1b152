"""Optimizers, learning-rate schedules, and the moving average of the weights."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from utils.checkpoint import de_parallel
from utils.errors import InputError, short_repr
from utils.log import LOGGER

FUSED_DEVICES = ("cpu", "cuda")
BIASES, DECAYED, NORMS = range(3)  # positions of the parameter groups; checkpoints of YOLOv5 have the same


def _is_norm(module: nn.Module) -> bool:
    """Tell whether ``module`` is one of torch's normalisation layers."""
    return any(base.__module__.startswith("torch.nn.") and "Norm" in base.__name__ for base in type(module).__mro__)


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Biases, weights to decay, and norm weights of ``model``, each in the order of ``model.modules()``.

    Every parameter is in exactly one group. Those that are neither ``weight`` nor ``bias`` of their module (the fused
    projections of attention, the mixing weights of Sum; YOLOv5 v6.2 never trains them) come last: matrices
    with the decayed weights, vectors with the biases.
    """
    biases: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            if name == "bias":
                biases.append(parameter)
            elif name == "weight":
                (norms if _is_norm(module) else decayed).append(parameter)
            else:
                other.append(parameter)
    biases += [parameter for parameter in other if parameter.ndim < 2]
    decayed += [parameter for parameter in other if parameter.ndim >= 2]
    return biases, decayed, norms


def smart_optimizer(
    model: nn.Module, name: str = "SGD", lr: float = 0.01, momentum: float = 0.937, decay: float = 5e-4
) -> torch.optim.Optimizer:
    """An optimizer with three groups: biases (0), weights with decay (1), norm weights (2).

    Args:
        model: all its parameters are optimised; frozen ones have no gradient and stay.
        name: SGD (Nesterov), Adam, AdamW or RMSProp.
        lr: initial learning rate of all groups.
        momentum: momentum; the first beta of Adam and AdamW (the second is 0.999).
        decay: weight decay of group 1; the others have none.

    Where torch has fused kernels for the optimizer and the device, they update all parameters in one pass. A step that
    loss scaling skips changes nothing in any optimizer.

    Raises:
        InputError: another ``name``.
    """
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in model.parameters()) or None
    makers: dict[str, Callable[[list[dict]], torch.optim.Optimizer]] = {
        "SGD": functools.partial(torch.optim.SGD, lr=lr, momentum=momentum, nesterov=True, fused=fused),
        "Adam": functools.partial(torch.optim.Adam, lr=lr, betas=(momentum, 0.999), fused=fused),
        "AdamW": functools.partial(torch.optim.AdamW, lr=lr, betas=(momentum, 0.999), fused=fused),
        "RMSProp": functools.partial(torch.optim.RMSprop, lr=lr, momentum=momentum),
    }
    if name not in makers:
        raise InputError(f"unknown optimizer {short_repr(name)}: choose one of {', '.join(makers)}")
    groups = parameter_groups(model)
    decays = {BIASES: 0.0, DECAYED: decay, NORMS: 0.0}
    optimizer = makers[name]([{"params": groups[index], "weight_decay": decays[index]} for index in decays])
    _start_momentum(optimizer)
    LOGGER.info(
        f"Optimizer: {name}, lr {lr:g}; {len(groups[DECAYED])} weights with decay {decay:g}, "
        f"{len(groups[NORMS])} norm weights, {len(groups[BIASES])} biases"
    )
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a state dict, but keep the kernels (fused, foreach) and switches (Nesterov) of ``optimizer``."""
    groups = []
    for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        kept = {key: value for key, value in own.items() if key in ("fused", "foreach") or isinstance(value, bool)}
        groups.append({**group, **kept})
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            # Fused kernels on GPUs need one memory layout for all; another program may have used another
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)
    _start_momentum(optimizer)


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD's fused kernel momentum buffers of zeros, instead of those that it would make in its first step.

    That kernel leaves them uninitialised if the loss scale overflows in the first step, and every later step would add
    that memory's content. From zeros the first step is the published one. The buffers get the parameters' memory
    layout, which must not change any more.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] and group["momentum"] else ():
            state = optimizer.state[parameter]
            if parameter.requires_grad and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def overflow_flag(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """A scalar on the device, above 0 if the unscaled gradients have overflowed and ``scaler`` skips the step.

    None if ``scaler`` is switched off. Reading the value makes the host wait for the device.
    """
    if not scaler.is_enabled():
        return None
    flags = scaler._found_inf_per_device(optimizer)  # torch has no public way to ask before the step
    return torch.stack([*flags.values()]).sum()


def linear_schedule(lrf: float, epochs: int) -> Callable[[float], float]:
    """Factor of the learning rate by epoch: a straight line from 1 at epoch 0 to ``lrf`` at ``epochs``."""
    return lambda epoch: lrf + (1 - lrf) * (1 - epoch / epochs)


def one_cycle(y1: float = 0.0, y2: float = 1.0, steps: int = 100) -> Callable[[float], float]:
    """Half a cosine wave from ``y1`` at 0 to ``y2`` at ``steps`` (https://arxiv.org/abs/1812.01187)."""
    return lambda step: y1 + (y2 - y1) * (1 - math.cos(math.pi * step / steps)) / 2


def _ramped_decay(decay: float, tau: float, updates: Any) -> Any:
    """The decay after ``updates`` updates; number in, number out; tensor in, tensor out."""
    if isinstance(updates, torch.Tensor):
        return -decay * torch.expm1(-updates / tau)
    return -decay * math.expm1(-updates / tau)


class _TensorsByName:
    """Follows tensors of a model that are named as in its state dict, also when they are replaced.

    An update of the average of YOLOv5n takes 3.3 ms with it and 4.9 ms with state dicts; a whole step on a GPU, 12 ms.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        """Look up the modules that hold the tensors ``names``."""
        self._modules = list(model.modules())
        self._members = []
        for name in names:
            path, _, attribute = name.rpartition(".")
            self._members.append((model.get_submodule(path), attribute))

    def are_of(self, model: nn.Module) -> bool:
        """Tell whether ``model`` still has the same modules."""
        return self._modules == list(model.modules())

    def present(self) -> list[Any]:
        """The tensors, in the order of their names."""
        return [getattr(module, attribute) for module, attribute in self._members]


class ModelEMA:
    """Exponential moving average of everything floating in a model's state dict (weights and batch-norm statistics).

    The decay rises with the number of updates, ``decay * (1 - exp(-updates / tau))``, so that the random first weights
    are soon forgotten. Integer entries keep the value that they had when the average was made.

    Attributes:
        ema: the averaged model, in eval mode and without gradients.
        decay: callable, the decay after a number of updates.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000, updates: int = 0) -> None:
        """Start the average at the present weights of ``model``."""
        self.ema = copy.deepcopy(de_parallel(model)).eval().requires_grad_(False)
        self._updates: int | torch.Tensor = updates  # a tensor on the device while steps may be skipped there
        self._names = [name for name, value in self.ema.state_dict().items() if value.is_floating_point()]
        self._own = _TensorsByName(self.ema, self._names)
        self._its = _TensorsByName(de_parallel(model), self._names)
        self.decay: Callable[[Any], Any]
        self.set_decay(decay, tau)

    def set_decay(self, decay: float, tau: float) -> None:
        """Let the average keep ``decay`` of itself at each update, with a ramp of ``tau`` updates at its start."""
        self.decay = functools.partial(_ramped_decay, decay, tau)

    @property
    def updates(self) -> int:
        """Number of updates so far, skipped ones left out."""
        return int(self._updates)

    @updates.setter
    def updates(self, count: int) -> None:
        self._updates = count

    @torch.no_grad()
    def update(self, model: nn.Module, overflow: torch.Tensor | None = None) -> None:
        """Move the average towards ``model``; call it after each optimizer step.

        Nothing changes if ``overflow``, a scalar on the device, is above 0: the optimizer has skipped that step. The
        host does not wait for its value.
        """
        model = de_parallel(model)
        if not self._own.are_of(self.ema):
            self._own = _TensorsByName(self.ema, self._names)
        if not self._its.are_of(model):
            self._its = _TensorsByName(model, self._names)
        averaged = self._own.present()
        targets = []
        for value, target in zip(averaged, self._its.present(), strict=True):
            alike = target.dtype == value.dtype and target.device == value.device  # quicker than a call of ``to``
            targets.append(target if alike else target.to(value))
        if overflow is None:
            self._updates += 1
            torch._foreach_lerp_(averaged, targets, 1 - self.decay(self.updates))
            return
        taken = (overflow == 0).double()  # 1 or 0
        self._updates = self._updates + taken
        weight = (1 - self.decay(self._updates)) * taken
        steps = torch._foreach_sub(targets, averaged)
        torch._foreach_mul_(steps, weight.float())
        torch._foreach_add_(averaged, steps)

    def update_attr(
        self, model: nn.Module, include: Iterable[str] = (), exclude: Iterable[str] = ("process_group", "reducer")
    ) -> None:
        """Copy public instance attributes of ``model`` (all, or those in ``include``) onto the averaged model."""
        included, excluded = set(include), set(exclude)
        for name, value in vars(de_parallel(model)).items():
            if not name.startswith("_") and name not in excluded and (not included or name in included):
                setattr(self.ema, name, value)
