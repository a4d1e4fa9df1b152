"""Limits of what a configuration may build: several times the needs of the largest published models.

Each is checked before it costs anything: modules and parameters while the layers are built without memory (on torch's
meta device), and the work for an image before the layer that does it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules import activation
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from utils.errors import InputError, one_line
from utils.installation import path_in_files

MOST_MODULES = 6_000  # including parameter tensors; yolov5x6: 1,200
MOST_PARAMETERS = 500_000_000  # yolov5-p7: 144 million
SIDE = 256  # pixels; work is measured on an image of this side
MOST_VALUES = 1 << 25  # in one tensor, for an image of SIDE pixels
MOST_PRODUCTS = 60_000_000_000  # multiplications for such an image; yolov5x6: 17 billion
LARGE_KERNEL = 50  # pixels; above this side oneDNN has no fast convolution
# Times as slow as an ordinary convolution with equally many multiplications, measured on a CPU
SLOW_LARGE = 200
SLOW_TRANSPOSED = 8
SLOW_POOLING = 40

_aten = torch.ops.aten
_ELEMENTWISE = {
    kind for name in activation.__all__ if name != "MultiheadAttention" and (kind := getattr(activation, name))
} | {nn.BatchNorm2d, nn.Identity, nn.Dropout, nn.Dropout2d}


# -- what is built -----------------------------------------------------------------------------------------------------


@contextmanager
def limited_size() -> Iterator[None]:
    """Count the modules and parameters created in the block; raise InputError as soon as there are too many."""
    modules = parameters = 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise InputError(
                f"the model has more than {MOST_MODULES} modules and parameter tensors: lower its repeats or "
                "depth_multiple"
            )

    def count_parameter(_: nn.Module, __: str, parameter: Tensor | None) -> None:
        nonlocal parameters
        count_module()
        if parameter is not None and not isinstance(parameter, nn.UninitializedParameter):
            parameters += parameter.numel()
        if parameters > MOST_PARAMETERS:
            millions = MOST_PARAMETERS // 10**6
            raise InputError(f"the model has more than {millions} million parameters: lower its widths, repeats or nc")

    hooks = [
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_parameter),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# -- what an image costs -----------------------------------------------------------------------------------------------


class Work:
    """Sums the multiplications of a pass; raises InputError if they, or the values of one tensor, are too many."""

    def __init__(self, scale: float = 1) -> None:
        """``scale``: pixels of an image of SIDE x SIDE per pixel of the image that is passed."""
        self.products = 0
        self.held = 0
        self.scale = scale

    def keep(self, values: int) -> None:
        """Count an output that is kept for later layers."""
        self.held += math.ceil(values * self.scale)
        if self.held > MOST_VALUES:
            raise InputError(f"up to it {self.held} values of an image of 256 pixels are kept for later layers")

    def add(self, values: int, products_per_value: int) -> None:
        """Count an operation that computes ``values`` with this many multiplications or comparisons each."""
        values = math.ceil(values * self.scale)
        if values > MOST_VALUES:
            raise InputError(f"it makes {values} values of an image of 256 pixels: use fewer channels, or a stride")
        self.products += values * products_per_value
        if self.products > MOST_PRODUCTS:
            billions = MOST_PRODUCTS // 10**9
            raise InputError(
                f"up to it an image of 256 pixels takes more than {billions} billion multiplications: use fewer "
                "channels or repeats, or strides"
            )


def _pair(value: Any) -> tuple[Any, Any]:
    return value if isinstance(value, tuple) else (value, value)


def _positions(module: Any, image: Tensor) -> int:
    """Height times width of the output of a convolution or pooling for (B, C, H, W)."""
    sides = []
    for axis in range(2):
        kernel = _pair(module.kernel_size)[axis]
        stride = _pair(module.stride)[axis]
        padding = kernel // 2 if isinstance(module.padding, str) else _pair(module.padding)[axis]
        reach = _pair(module.dilation)[axis] * (kernel - 1) + 1
        if isinstance(module, nn.ConvTranspose2d):
            extra = _pair(module.output_padding)[axis]
            sides.append((image.shape[2 + axis] - 1) * stride - 2 * padding + reach + extra)
        else:
            sides.append((image.shape[2 + axis] + 2 * padding - reach) // stride + 1)
    return math.prod(max(side, 0) for side in sides)


def _cost(module: nn.Module, image: Tensor) -> tuple[int, int] | None:
    """(output values, products per value) of a common module for (B, C, H, W); None for any other."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        values = image.shape[0] * module.out_channels * _positions(module, image)
        kernel = _pair(module.kernel_size)
        slowness = SLOW_TRANSPOSED if isinstance(module, nn.ConvTranspose2d) else 1
        slowness = SLOW_LARGE if max(kernel) > LARGE_KERNEL else slowness
        return values, module.in_channels // module.groups * math.prod(kernel) * slowness
    if isinstance(module, nn.MaxPool2d):
        kernel = _pair(module.kernel_size)
        window = math.prod(min(side, *image.shape[2:]) for side in kernel)
        products = SLOW_POOLING * window + sum(kernel)  # torch also visits what lies outside the image
        return image.shape[0] * image.shape[1] * _positions(module, image), products
    if isinstance(module, nn.Upsample):
        sides = module.size or [
            side * factor for side, factor in zip(image.shape[2:], _pair(module.scale_factor), strict=True)
        ]
        return int(image.shape[0] * image.shape[1] * math.prod(_pair(sides) if isinstance(sides, int) else sides)), 1
    return (image.numel(), 1) if type(module) in _ELEMENTWISE else None


def is_common(module: nn.Module) -> bool:
    """Tell whether the work of a module is known beforehand, or is that of its children."""
    if next(module.children(), None) is None:
        known = (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.Upsample, *_ELEMENTWISE)
        return type(module) in known or path_in_files(type(module)).startswith("models.")
    return path_in_files(type(module)).startswith("models.") or type(module) in (nn.Sequential, nn.ModuleList)


@contextmanager
def watched_pass(layers: nn.Sequential, side: int = SIDE, saved: Collection[int] = ()) -> Iterator[None]:
    """Watch the first pass through layers: common modules are refused before they do too much.

    Args:
        layers: with attributes ``i``, ``f`` and ``type``. side: of the image that is passed through them, in pixels.
        saved: indices of layers whose outputs are kept; together they must not exceed the limit for one tensor.

    Raises:
        InputError: for any error of a layer; the message names the layer.
    """
    work = Work(max(1, SIDE / side) ** 2)
    begun = [layers[0]]  # the layers whose pass has begun

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        images = inputs[0] if inputs and isinstance(inputs[0], (list, tuple)) else inputs
        if len(images) > 1:
            work.add(sum(image.numel() for image in images if isinstance(image, Tensor)), 1)
        elif len(images) == 1 and isinstance(images[0], Tensor) and images[0].dim() in (3, 4):
            cost = _cost(module, images[0] if images[0].dim() == 4 else images[0][None])
            if cost:
                work.add(*cost)

    hooks = [layer.register_forward_pre_hook(lambda layer, _: begun.append(layer)) for layer in layers]
    hooks += [module.register_forward_pre_hook(look) for module in layers.modules()]
    hooks += [
        layer.register_forward_hook(lambda _, __, made: work.keep(made.numel()))
        for index, layer in enumerate(layers)
        if index in saved
    ]
    try:
        yield
    except Exception as error:
        failed: Any = begun[-1]
        reason = one_line(error)
        raise InputError(
            "the layers of this model do not fit together: "
            f"layer {failed.i} ({failed.type}) fails on its input: {reason}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


class _Meter(TorchDispatchMode):
    """Counts every operation, of any module, after it ran without memory."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count it."""
        made = func(*args, **(kwargs or {}))
        first = made[0] if isinstance(made, (tuple, list)) and made else made
        if isinstance(first, Tensor):
            operation = func.overloadpacket
            products = 1
            if operation is _aten.convolution:
                products = args[1].numel() // max(first.shape[1], 1)
            elif operation in (_aten.mm, _aten.bmm, _aten.addmm):
                products = args[-1].shape[-2]
            self.work.add(first.numel(), products)
        return made


def check_work(layers: nn.Sequential, image: Sequence[int]) -> None:
    """Pass an image of this shape through layers without memory (on the meta device), wherever their weights are.

    For layers whose work is not known beforehand; slower than ``watched_pass``. Layers that do not fit together, or
    cannot run without memory, end the pass without an error: the caller runs them anyway.

    Raises:
        InputError: a layer would do too much; the message names it.
    """
    kept: list[Any] = []
    with torch.no_grad(), _Meter():
        x: Any = torch.empty(tuple(image), device="meta")
        for layer in layers:
            facts: Any = layer
            try:
                inputs = [x if source == -1 else kept[source] for source in _sources(facts)]
                x = _without_memory(layer, inputs if isinstance(facts.f, list) else inputs[0])
            except InputError as error:
                raise InputError(f"layer {facts.i} ({facts.type}): {error}") from error
            except Exception:  # noqa: BLE001 - the pass with memory meets and reports it
                return
            kept.append(x)


def _without_memory(layer: nn.Module, inputs: Any) -> Any:
    """The output of a layer for inputs on the meta device, as if its weights were there and in FP32."""
    tensors = {
        name: torch.empty(value.shape, device="meta", dtype=torch.float32 if value.is_floating_point() else value.dtype)
        for name, value in (*layer.named_parameters(), *layer.named_buffers())
    }
    return functional_call(layer, tensors, (inputs,))


def _sources(layer: Any) -> list[int]:
    return layer.f if isinstance(layer.f, list) else [layer.f]


def build_within_limits(build: Callable[[], nn.Sequential], image: Sequence[int]) -> None:
    """Build layers without memory, before they are built with it.

    Args:
        build: builds the layers, with attributes ``i``, ``f`` and ``type`` as ``parse_model`` gives them.
        image: shape of an image for them.

    Raises:
        InputError: raised by ``build``, or a limit is exceeded.
    """
    if math.prod(image) > MOST_VALUES:
        raise InputError(f"an image of {image[1]} channels is too large: correct ch")
    with torch.device("meta"), limited_size():
        layers = build()
    check_uncommon(layers, image)


def check_uncommon(layers: nn.Sequential, image: Sequence[int]) -> None:
    """``check_work`` if the work of some module is not known beforehand."""
    if not all(map(is_common, layers.modules())):
        check_work(layers, image)
