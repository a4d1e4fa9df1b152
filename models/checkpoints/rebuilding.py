"""Build modules from records (``utils.torch_files``), with a fixed table of classes.

Once ``module_rules`` has checked all records, each module is created empty by ``nn.Module.__init__`` and given its
parameters, buffers, submodules and plain attributes. No code of a class runs with arguments chosen by the file, there
are no hooks, and no attribute hides a method.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from models import blocks, common, head, rare_blocks, yolo
from models.checkpoints.module_rules import check_module, example
from utils.installation import path_in_files
from utils.torch_files.build import Builder
from utils.torch_files.reader import Content
from utils.torch_files.records import ModuleRecord, OrderedRecord, ParameterRecord, Refusal, TensorRecord

PATHS = ("models.common.", "models.yolo.", "models.experimental.")  # of our classes in files
INSTALLED = "yolov5_prune."  # goes before them where a program has called torch.save itself
# Paths of classes in earlier releases: {path in the file: class}
MOVED: dict[str, type[nn.Module]] = {
    "models.yolo.Model": yolo.DetectionModel,  # to v6.1
    "models.experimental.GhostConv": common.GhostConv,  # to v5.0
    "models.experimental.GhostBottleneck": common.GhostBottleneck,
    "models.experimental.C3": common.C3,  # v2.0 and v3.0
    "models.experimental.CrossConv": common.CrossConv,  # to v6.1
    "torch.nn.modules.linear._LinearWithBias": nn.modules.linear.NonDynamicallyQuantizableLinear,  # torch < 1.9
}
# Modules of torch.nn with the layers that detectors are made of
LAYER_HOMES = ("activation", "batchnorm", "channelshuffle", "conv", "dropout", "flatten", "fold", "instancenorm",
               "linear", "normalization", "padding", "pixelshuffle", "pooling", "upsampling")  # fmt: skip


@functools.cache
def module_classes() -> dict[str, type[nn.Module]]:
    """Every module class that a checkpoint may name: {path in the file: class}."""
    classes = dict(MOVED)
    for module in (blocks, rare_blocks, head, yolo):  # without Ensemble, whose models are separate files
        for module_class in vars(module).values():
            if (
                isinstance(module_class, type)
                and issubclass(module_class, nn.Module)
                and path_in_files(module_class).startswith(PATHS)
            ):
                path = path_in_files(module_class)
                classes[path] = classes[INSTALLED + path] = module_class
    layers = [nn.Sequential, nn.ModuleList, nn.modules.linear.NonDynamicallyQuantizableLinear, *vars(nn).values()]
    for module_class in layers:
        if (
            not isinstance(module_class, type)
            or not issubclass(module_class, nn.Module)
            or issubclass(module_class, nn.modules.lazy.LazyModuleMixin)
        ):
            continue
        home = module_class.__module__.removeprefix("torch.nn.modules.")
        if home in LAYER_HOMES or module_class in (nn.Sequential, nn.ModuleList):
            classes[f"{module_class.__module__}.{module_class.__name__}"] = module_class
    return classes


def rebuild(content: Content) -> Any:
    """Build the content of a file. Modules may be the content itself, or values of a dict at its top.

    Raises:
        Refusal: a module is not valid, or is in an unexpected place. Then nothing was built.
    """
    top = content.value
    entries = top if type(top) in (dict, OrderedRecord) else {"": top}
    checked: set[int] = set()
    for value in entries.values():
        if type(value) is ModuleRecord:
            _check(value, checked, value.path.rsplit(".", 1)[-1])
    stray = next((record for record in content.modules if id(record) not in checked), None)
    if stray is not None:
        raise Refusal(f"an object of {stray.path} where plain values are expected")
    maker = _Maker(Builder(content.storages))
    built = {
        key: maker.make(value) if type(value) is ModuleRecord else maker.plain(value) for key, value in entries.items()
    }
    return built if entries is top else built[""]


def _check(record: ModuleRecord, checked: set[int], path: str) -> None:
    """Check a module and its submodules, each once."""
    if id(record) in checked:
        return
    checked.add(id(record))
    module_class = module_classes()[record.path]
    check_module(record, module_class, path)
    for name, child in record.state["_modules"].items():  # type: ignore[index]
        if child is not None:
            if issubclass(module_classes()[child.path], yolo.DetectionModel):
                raise Refusal(f"{path} has a whole model as its part {name}")
            _check(child, checked, f"{path}.{name}")


class _Maker:
    """Builds modules; one that the file refers to twice becomes one object."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.plain = builder.build
        self.made: dict[int, nn.Module] = {}
        self.owners: dict[str, int] = {}  # storage key -> parameter or buffer that uses its numbers

    def _held(self, record: ParameterRecord | TensorRecord | None) -> Any:
        """A parameter or buffer that shares its numbers with no other: changing one must not change another."""
        tensor = self.plain(record)
        if record is not None:
            key = (record.tensor if isinstance(record, ParameterRecord) else record).storage.key
            if self.owners.setdefault(key, id(record)) != id(record):
                tensor.data = tensor.data.clone()
        return tensor

    def make(self, record: ModuleRecord) -> nn.Module:
        """The module of a checked record."""
        if id(record) in self.made:
            return self.made[id(record)]
        module_class = module_classes()[record.path]
        state = dict(record.state or {})
        module = module_class.__new__(module_class)
        nn.Module.__init__(module)
        attributes = vars(module)
        for store in ("_parameters", "_buffers"):
            attributes[store].update({name: self._held(value) for name, value in state.pop(store).items()})
        children: dict[str, Any] = state.pop("_modules")
        attributes["_modules"].update(
            {name: None if child is None else self.make(child) for name, child in children.items()}
        )
        attributes["_non_persistent_buffers_set"] = set(state.pop("_non_persistent_buffers_set", ()))
        for name, value in state.items():
            if not name.startswith("_") or name in KEPT:
                attributes[name] = self.plain(value)
        self.made[id(record)] = module
        _complete(module)
        return module


KEPT = ("_qkv_same_embed_dim",)  # attributes with an underscore that are kept; others are hooks and caches


def _complete(module: nn.Module) -> None:
    """Add attributes of a layer that follow from others, or that a later torch has."""
    attributes = vars(module)
    if isinstance(module, nn.modules.conv._ConvNd):
        attributes["_reversed_padding_repeated_twice"] = _doubled(module)
    if type(module) in yolo.INPLACE_ACTIVATIONS:
        attributes.setdefault("inplace", True)
    module_class: Any = type(module)
    model = example(module_class) if module_class.__module__.startswith("torch.") else None
    for name, value in vars(model).items() if model is not None else ():
        if name not in attributes and name not in module._modules and not name.startswith("_"):
            attributes[name] = value


def _doubled(module: nn.modules.conv._ConvNd) -> Any:
    """Padding of both sides of each axis, last axis first: what torch uses unless padding_mode is zeros."""
    if not isinstance(module.padding, str):
        return tuple(side for side in reversed(module.padding) for _ in range(2))
    sides = []
    for size, step in zip(reversed(module.kernel_size), reversed(module.dilation), strict=True):
        total = step * (size - 1) if module.padding == "same" else 0
        sides += [total // 2, total - total // 2]
    return sides
