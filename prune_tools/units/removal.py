"""Surgery on rows: a network without some head levels and residual blocks.

A level goes with all rows that nothing else reads, a block ``x + f(x)`` becomes ``x``. The result is an ordinary
network of fewer rows and shorter blocks, and its YAML says no more than that::

    silence   the same rows; the head without the levels, the blocks replaced by identities
    compact   the rows that nothing reads and the identities taken out, everything renumbered

Both compute the same, so repairs can be done on the silenced network, whose module paths are those of the full one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.common import C3, BottleneckCSP, C3Ghost, C3x, GhostBottleneck
from models.description import OWN_KEYS, describe
from models.parser import Row, scaled_depth
from models.yolo import DetectionModel
from utils.errors import InputError, one_line
from utils.model_info import blank_image, grid_size

SHORTENED = (C3, C3x, C3Ghost, BottleneckCSP)  # the classes whose ``m`` is a sequence of blocks, as many as a row says
FACTS = ("i", "f", "type", "np")  # the parser's attributes of a layer
ODD = 3  # an image side of an odd number of grid cells shows a layer that needs a larger multiple


@dataclass(frozen=True)
class Removal:
    """Units to be removed: indices of head levels, and module paths of blocks."""

    levels: tuple[int, ...] = ()
    blocks: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether anything is removed."""
        return bool(self.levels or self.blocks)


# -- units of a network ------------------------------------------------------------------------------------------------


def is_residual(module: nn.Module) -> bool:
    """Tell whether a block adds its input to what it computes from it."""
    if isinstance(module, GhostBottleneck):
        return isinstance(module.shortcut, nn.Identity) or not len(list(module.shortcut.children()))
    return getattr(module, "add", False) is True


def find_blocks(model: DetectionModel) -> list[str]:
    """Module paths of the residual blocks that can be removed one by one, in execution order."""
    paths = []
    for index, layer in enumerate(model.model):
        sequence: Any = layer.m if type(layer) in SHORTENED else layer
        prefix = f"model.{index}.m" if type(layer) in SHORTENED else f"model.{index}"
        if isinstance(sequence, nn.Sequential):
            paths += [f"{prefix}.{name}" for name, part in sequence.named_children() if is_residual(part)]
        elif is_residual(layer):
            paths.append(prefix)
    return paths


def obstacle(model: DetectionModel, removal: Removal) -> str:
    """Return why a network without these units could not be used; '' if it could.

    Without its coarsest level a network may still have coarser maps inside. Image sides are multiples of the largest
    stride of the head, at least 32, here as in YOLOv5; the remaining layers have to fit together at such a size.
    """
    head: Any = model.model[-1]
    if len(removal.levels) >= head.nl:
        return "a network needs a level"
    reduced = without_units(model, removal).to("meta")
    side = ODD * grid_size(reduced)
    try:
        with torch.no_grad():
            reduced(blank_image(reduced, side))
    except RuntimeError as error:
        return f"images of {side} pixels would not fit: it has coarser maps than its levels ({one_line(error)})"
    return ""


# -- rows --------------------------------------------------------------------------------------------------------------


def _sources(row: Row, index: int) -> list[int]:
    """The layers that row ``index`` reads, from 0; -1 stands for the image."""
    return [index - 1 if source == -1 else source % index for source in row.sources]


def _rows(model: DetectionModel) -> list[Row]:
    return [Row(*deepcopy(values)) for values in (*model.yaml["backbone"], *model.yaml["head"])]


def _read_by_head(sources: Sequence[Sequence[int]]) -> list[int]:
    """Indices of the rows that the last one reads, directly or not, itself among them; ascending."""
    needed, waiting = set(), [len(sources) - 1]
    while waiting:
        index = waiting.pop()
        if index >= 0 and index not in needed:
            needed.add(index)
            waiting += sources[index]
    return sorted(needed)


# -- surgery -----------------------------------------------------------------------------------------------------------


def silence(model: DetectionModel, removal: Removal) -> DetectionModel:
    """A copy of ``model`` with all its rows that computes what it does without the units; its YAML is not changed."""
    silenced = deepcopy(model)
    _narrow_head(silenced, removal.levels)
    for path in removal.blocks:
        parent, _, name = path.rpartition(".")
        identity = nn.Identity()
        _copy_facts(silenced.get_submodule(path), identity)
        setattr(silenced.get_submodule(parent), name, identity)
    return silenced


def _copy_facts(source: nn.Module, target: nn.Module) -> None:
    vars(target).update({name: vars(source)[name] for name in FACTS if name in vars(source)})
    target.training = source.training


def _narrow_head(model: DetectionModel, levels: Sequence[int]) -> None:
    """Take ``levels`` out of the head of ``model``, in place."""
    head: Any = model.model[-1]
    kept = [level for level in range(head.nl) if level not in levels]
    head.nl = len(kept)
    head.f = [head.f[level] for level in kept]
    head.m = nn.ModuleList(head.m[level] for level in kept)
    head.anchors = head.anchors[kept]  # (nl, na, 2)
    head.stride = head.stride[kept]  # (nl,)
    head.grid = [torch.zeros(1) for _ in kept]
    head.anchor_grid = [torch.zeros(1) for _ in kept]
    model.stride = model.stride[kept]


def remove_units(model: DetectionModel, removal: Removal) -> DetectionModel:
    """A copy of ``model`` without the units, with a YAML that describes it."""
    return compact(silence(model, removal), removal)


def moved_paths(model: DetectionModel, removal: Removal) -> dict[str, str]:
    """The path that each module of ``model`` has without the units, by its present path; those that go have none."""
    silenced = silence(model, removal)
    before = {path: module for path, module in silenced.named_modules() if path}
    after = {id(module): path for path, module in _bare(silenced, removal).named_modules()}
    return {path: after[id(module)] for path, module in before.items() if id(module) in after}


def compact(network: DetectionModel, removal: Removal) -> DetectionModel:
    """Take what a removal has silenced out of the network, in place, and describe the rest in its YAML; returns it.

    Args:
        network: the result of ``silence`` for the same removal, possibly with other weights.
        removal: the units.
    """
    rows = _rows(network)
    rows[-1] = _head_row(rows[-1], network.model[-1], removal.levels)
    depth = network.yaml["depth_multiple"]
    if removal.blocks:  # a depth multiple may not express the number that remains
        for row in rows:
            row.number = scaled_depth(row.number, depth)
        depth = 1.0
    needed = _take_out(network, rows, removal)
    _record(network, rows, needed, removal, depth)
    return network


def without_units(model: DetectionModel, removal: Removal) -> DetectionModel:
    """``remove_units`` without a new YAML, which takes most of its time."""
    return _bare(silence(model, removal), removal)


def _bare(network: DetectionModel, removal: Removal) -> DetectionModel:
    """``compact`` without a new YAML, in place."""
    rows = _rows(network)
    rows[-1] = _head_row(rows[-1], network.model[-1], removal.levels)
    for row in rows:
        row.number = scaled_depth(row.number, network.yaml["depth_multiple"])
    _take_out(network, rows, removal)
    return network


def _take_out(network: DetectionModel, rows: Sequence[Row], removal: Removal) -> list[int]:
    """Take the silenced parts out of the layers of ``network`` and out of ``rows``, whose numbers count blocks.

    Returns:
        The indices of the rows that remain.
    """
    lost = Counter(int(path.split(".")[1]) for path in removal.blocks)
    layers: list[nn.Module] = list(network.model)
    sources: list[list[int]] = []
    bypass: dict[int, int] = {-1: -1}  # layer -> what its readers read: itself, or the source of a removed block
    for index, row in enumerate(rows):
        sources.append([bypass[source] for source in _sources(row, index)])
        row.number -= lost[index]
        is_gone = row.number == 0 and type(layers[index]) not in SHORTENED
        bypass[index] = sources[index][0] if is_gone and lost[index] else index
        if lost[index] and not is_gone:
            layers[index] = _shortened(layers[index])
    needed = _read_by_head(sources)
    numbers = {-1: -1} | {index: number for number, index in enumerate(needed)}
    for index in needed:
        _renumber(rows[index], layers[index], [numbers[source] for source in sources[index]], numbers[index])
    network.model = nn.Sequential(*(layers[index] for index in needed))
    network.save = sorted(source % numbers[index] for index in needed for source in rows[index].sources if source != -1)
    return needed


def _head_row(row: Row, head: Any, levels: Sequence[int]) -> Row:
    """The row of Detect without ``levels``; anchors that it names itself lose theirs, too."""
    kept = [level for level in range(len(row.sources)) if level not in levels]
    arguments = [_of_levels(argument, kept) for argument in row.arguments]
    return Row([row.sources[level] for level in kept], row.number, row.module, arguments)


def _of_levels(anchors: Any, kept: Sequence[int]) -> Any:
    """The lists of the kept levels; a number or a name stands for all levels."""
    return [anchors[level] for level in kept] if isinstance(anchors, list) else anchors


def _shortened(layer: Any) -> nn.Module:
    """A layer without the identities in its sequence of blocks; a single block that remains stands alone."""
    if type(layer) in SHORTENED:
        layer.m = nn.Sequential(*_without_identities(layer.m))
        return layer
    parts = list(_without_identities(layer))
    short = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    _copy_facts(layer, short)
    return short


def _without_identities(sequence: nn.Sequential) -> Iterator[nn.Module]:
    return (part for part in sequence if not isinstance(part, nn.Identity))


def _renumber(row: Row, layer: Any, sources: Sequence[int], index: int) -> None:
    """Let a row and its layer read ``sources``; the layer before is -1 where the row did not name it by its number."""
    own = [-1 if new == index - 1 and declared < 0 else new for declared, new in zip(row.sources, sources, strict=True)]
    row.source = own if isinstance(row.source, list) else own[0]
    layer.i, layer.f = index, row.source


def _record(
    network: DetectionModel, rows: Sequence[Row], needed: Sequence[int], removal: Removal, depth: float
) -> None:
    """Write the rows of ``needed`` into the YAML, and measure what they do not express."""
    config = {key: value for key, value in network.yaml.items() if key not in OWN_KEYS}
    head: Any = network.model[-1]
    kept = [level for level in range(head.nl + len(removal.levels)) if level not in removal.levels]
    written = [[rows[i].source, rows[i].number, rows[i].module, rows[i].arguments] for i in needed]
    backbone = sum(index < len(config["backbone"]) for index in needed)
    config |= {
        "depth_multiple": depth,
        "anchors": _of_levels(config["anchors"], kept),
        "backbone": written[:backbone],
        "head": written[backbone:],
    }
    network.yaml = config
    for layer in network.model:
        vars(layer)["np"] = sum(parameter.numel() for parameter in layer.parameters())
    try:
        network.yaml = describe(network)
    except InputError as error:
        raise RuntimeError(f"the rows that remain do not describe the network (a bug): {error}") from error
