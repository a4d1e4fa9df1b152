"""Build the layers of a configuration from its rows. No text is executed; words are looked up."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from models import common
from models.activations import parse_activation, set_activation
from models.configuration import MOST_ANCHORS, MOST_ROWS
from models.head import Detect
from models.limits import build_within_limits
from models.module_settings import apply_modules
from models.rare_blocks import MixConv2d, Sum
from models.widths import apply_widths
from utils.errors import InputError, one_line, short_repr
from utils.installation import path_in_files
from utils.log import LOGGER

CHANNEL_MULTIPLE = 8  # widths are rounded up to this
STRIDE_PROBE = 256  # side in pixels of the blank image on which strides are measured
MOST_REPEATS = 500  # of one row, after depth_multiple
MOST_ARGUMENTS = 200  # of one row, including those in lists
LONGEST_SUM = 100  # characters of an argument such as nc + 5
_TAKES_REPEATS = {"BottleneckCSP", "C3", "C3TR", "C3Ghost", "C3x"}  # the repeat count is an argument of the block
_MAY_BE_EMPTY = _TAKES_REPEATS - {"C3TR"}  # without repeats they still have their outer convolutions, as in v6.2
_TAKES_CHANNELS = _TAKES_REPEATS | {
    "Conv", "DWConv", "GhostConv", "CrossConv", "MixConv2d", "Focus", "Bottleneck", "GhostBottleneck",
    "SPP", "SPPF", "C3SPP", "DWConvTranspose2d", "nn.ConvTranspose2d",
}  # fmt: skip
_BLOCKS = {**vars(common), "Detect": Detect, "MixConv2d": MixConv2d, "Sum": Sum}
# They copy themselves before they can be counted
_OF_SEQUENCES = (nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)
_TABLE = "%3s%18s%3s%10s  %-40s%-30s"
_CONSTANTS = {"None": None, "True": True, "False": False}
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


@dataclass
class Row:
    """One row of a configuration: source of its input, repeats, module and arguments."""

    source: int | list[int]
    number: int
    module: str
    arguments: list[Any]

    @property
    def sources(self) -> list[int]:
        """The source layers as a list."""
        return self.source if isinstance(self.source, list) else [self.source]


# -- words -------------------------------------------------------------------------------------------------------------


def find_module(name: str) -> type[nn.Module] | None:
    """The class of a module name: a block of this project, Detect, or ``nn.<Name>``; None for another name."""
    known: Any = vars(nn).get(name[3:]) if name.startswith("nn.") else _BLOCKS.get(name)
    return known if isinstance(known, type) and issubclass(known, nn.Module) else None


def resolve_word(word: str, names: Mapping[str, Any]) -> Any:
    """Resolve a text argument of a row: a known name, a module, a number or a sum; other text stays text."""
    known = {**_CONSTANTS, **names}
    if word in known:
        return known[word]
    module = find_module(word)
    if module is not None:
        return module
    if len(word) > LONGEST_SUM or not re.fullmatch(r"[\w\s.+*/()-]*", word):
        return word
    try:
        return _arithmetic(ast.parse(word, mode="eval").body, names)
    except (SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError):
        return word


def _arithmetic(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Evaluate numbers, numeric names and the four operations; raise TypeError for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Name) and isinstance(names.get(node.id), int | float):
        return names[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_arithmetic(node.operand, names)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_arithmetic(node.left, names), _arithmetic(node.right, names))
    raise TypeError("not a number")


# -- layers ------------------------------------------------------------------------------------------------------------


def scaled_width(channels: int, gain: float) -> int:
    """Channels times the width multiple, rounded up to a multiple of 8."""
    return math.ceil(channels * gain / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def scaled_depth(number: int, gain: float) -> int:
    """Repeats times the depth multiple, at least 1; a single one stays single."""
    return max(round(number * gain), 1) if number > 1 else number


class LayerBuilder:
    """Builds the layers of one configuration in order, and records their output channels."""

    def __init__(self, config: Mapping[str, Any], input_channels: int) -> None:
        self.names = {"nc": config["nc"], "anchors": config["anchors"]}
        self.depth = config["depth_multiple"]
        self.width = config["width_multiple"]
        anchors = config["anchors"]
        per_level = anchors if isinstance(anchors, int) else len(anchors[0]) // 2
        self.unscaled = per_level * (config["nc"] + 5)  # a layer as wide as the head's output keeps its width
        self.input_channels = input_channels
        self.activation = parse_activation(config.get("activation"))
        self.channels: list[int] = []  # of each layer

    def build(self, row: Row) -> tuple[nn.Module, int, list[Any]]:
        """Build the module of a row; return it with its scaled repeats and its arguments.

        Raises:
            InputError: unknown module, or arguments that it does not take.
        """
        module_class = find_module(row.module)
        if module_class is None:
            known = "known are the blocks of models/common.py and nn.*"
            raise InputError(f"unknown module {short_repr(row.module)}; {known}")
        if module_class in _OF_SEQUENCES:
            raise InputError(f"{row.module} takes sequences, not images: use TransformerBlock or C3TR")
        if issubclass(module_class, LazyModuleMixin):
            sized = f"nn.{row.module.removeprefix('nn.Lazy')}"
            raise InputError(f"{row.module} has no size before its first pass: use {sized} with its channels")
        arguments = [resolve_word(word, self.names) if isinstance(word, str) else word for word in row.arguments]
        number = repeats = scaled_depth(row.number, self.depth)
        if number > MOST_REPEATS:
            raise InputError(f"it is repeated {short_repr(number)} times, at most {MOST_REPEATS} are possible")
        try:
            width, arguments = self._widths(row, arguments)
            if width < 1:
                raise InputError(f"it makes {width} channels, at least 1 is possible")
            if row.module in _TAKES_REPEATS:
                arguments.insert(2, number)
                repeats = 1
            modules = [module_class(*arguments) for _ in range(repeats)]
        except InputError:
            raise
        except Exception as error:  # whatever a class of torch raises for arguments that it does not take
            raise InputError(f"{one_line(error)}; the arguments were {short_repr(arguments)}") from error
        self.channels.append(width)
        if self.activation is not None:
            for module in modules:
                set_activation(module, self.activation)
        return modules[0] if repeats == 1 else nn.Sequential(*modules), number, arguments

    def _widths(self, row: Row, arguments: list[Any]) -> tuple[int, list[Any]]:
        """Output channels of a row, and its arguments with the input channels inserted."""
        inputs = [self.channels[source] if self.channels else self.input_channels for source in row.sources]
        if row.module == "Concat":
            return sum(inputs), arguments
        if row.module == "Detect":
            if isinstance(arguments[1], int) and arguments[1] > MOST_ANCHORS:
                raise InputError(f"at most {MOST_ANCHORS} anchors per level are possible")
            if isinstance(arguments[1], int):  # anchors per level, to be fitted to the data
                arguments[1] = [list(range(2 * arguments[1])) for _ in inputs]
            return self.channels[-1], [*arguments, inputs]
        if isinstance(row.source, list):
            raise InputError(f"it reads one layer, got from = {short_repr(row.source)}")
        (channels,) = inputs
        if row.module in _TAKES_CHANNELS:
            width = arguments[0] if arguments[0] == self.unscaled else scaled_width(arguments[0], self.width)
            return width, [channels, width, *arguments[1:]]
        if row.module == "nn.BatchNorm2d":
            return channels, [channels]
        if row.module == "Contract":
            return channels * arguments[0] ** 2, arguments
        if row.module == "Expand":
            return channels // arguments[0] ** 2, arguments
        return channels, arguments


def parse_model(d: Mapping[str, Any], ch: Sequence[int]) -> tuple[nn.Sequential, list[int]]:
    """Build the layers of a configuration and log them as a table.

    Args:
        d: a configuration as returned by ``read_config``; it is not modified. ``activation``, ``channels`` and
            ``modules`` are applied (see models/activations.py, models/widths.py, models/module_settings.py).
        ch: [input channels].

    Returns:
        The layers, each with attributes ``i`` (index), ``f`` (from), ``type``, ``np`` (parameters); and the sorted
        indices of the layers whose output a later one reads.

    Raises:
        InputError: a row that cannot be built, named by its index, or one of these keys that cannot be applied.
    """
    build_within_limits(lambda: _build(d, ch[-1])[0].model, (1, ch[-1], STRIDE_PROBE, STRIDE_PROBE))
    network, saved, lines = _build(d, ch[-1])
    LOGGER.info("\n" + _TABLE, "", "from", "n", "params", "module", "arguments")
    for layer, (number, arguments) in zip(network.model, lines, strict=True):
        facts = vars(layer)
        facts["np"] = sum(parameter.numel() for parameter in layer.parameters())
        LOGGER.info(_TABLE, facts["i"], facts["f"], number, facts["np"], facts["type"], arguments)
    return network.model, sorted(saved)


def _build(d: Mapping[str, Any], channels: int) -> tuple[Any, list[int], list[tuple[int, list[Any]]]]:
    """Return the network of a configuration, the layers to save, and the repeats and arguments of each layer."""
    builder = LayerBuilder(d, channels)
    network = nn.Module()
    saved: list[int] = []
    lines: list[tuple[int, list[Any]]] = []
    network.model = nn.Sequential()
    for index, values in enumerate([*d["backbone"], *d["head"]]):
        try:
            row = _checked_row(index, values)
            layer, number, arguments = builder.build(row)
        except InputError as error:
            raise InputError(f"layer {index} {short_repr(values)}: {error}") from error
        module_class = find_module(row.module)
        vars(layer).update(i=index, f=row.source, type=path_in_files(module_class))  # type: ignore[arg-type]
        saved.extend(source % index for source in row.sources if source != -1)
        network.model.append(layer)
        lines.append((number, arguments))
    if d.get("channels"):
        apply_widths(network, d["channels"])
    if d.get("modules"):
        apply_modules(network, d["modules"])
    return network, saved, lines


def _checked_row(index: int, values: Any) -> Row:
    """Check the row of layer ``index``; raise InputError if it is malformed or reads a layer that is not before it."""
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise InputError("expected [from, number, module, arguments]")
    row = Row(*values)
    if not isinstance(row.module, str) or not isinstance(row.arguments, list):
        raise InputError("module must be a name and arguments a list")
    least = 0 if row.module in _MAY_BE_EMPTY else 1
    if type(row.number) is not int or not least <= row.number <= MOST_REPEATS:
        expected = f"a whole number of at least {least} and at most {MOST_REPEATS}"
        raise InputError(f"number must be {expected}, got {short_repr(row.number)}")
    if not 1 <= len(row.sources) <= MOST_ROWS or not all(
        type(source) is int and (source == -1 or -index <= source < index) for source in row.sources
    ):
        raise InputError(f"it reads from {short_repr(row.source)}, which is not a layer before it")
    if sum(len(item) if isinstance(item, list) else 1 for item in row.arguments) > MOST_ARGUMENTS:
        raise InputError(f"it has more than {MOST_ARGUMENTS} arguments")
    return row
