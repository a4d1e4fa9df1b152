"""Activations as text: the key ``activation`` of a configuration (v7.0), such as ``nn.LeakyReLU(0.1)``.

The text is parsed, never executed: a name from a table, and literal arguments.
"""

from __future__ import annotations

import ast
import copy
import inspect
import math
from typing import Any

from torch import nn

from models.blocks import Conv
from utils.errors import InputError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    module_class.__name__: module_class
    for module_class in (
        nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU, nn.LogSigmoid,
        nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softsign, nn.Tanh,
    )
}  # fmt: skip
DEFAULT = "nn.SiLU()"
LONGEST_TEXT = 200  # characters
LARGEST_NUMBER = 4096
# Arguments of constructors that do not affect the output, or are old names of others
_IGNORED = ("inplace", "device", "dtype", "args", "kwargs", "min_value", "max_value")


def parse_module(text: Any, table: dict[str, type[nn.Module]], key: str) -> nn.Module:
    """Build the module of a text such as ``nn.LeakyReLU(0.1)``; ``nn.`` and empty parentheses may be left out.

    Args:
        text: the value in a configuration.
        table: classes by name.
        key: the key of the value, for messages.

    Raises:
        InputError: not a text, an unknown name, or arguments that are not literals or that the class does not take.
    """
    expected = f"{key} must be one of {', '.join(f'nn.{name}' for name in table)} with numbers as arguments"
    shown = repr(text) if len(repr(text)) <= LONGEST_TEXT else f"{repr(text)[:60]}..."
    problem = InputError(f"{expected}, got {shown}")
    if not isinstance(text, str) or len(text) > LONGEST_TEXT:
        raise problem
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(func=tree, args=[], keywords=[])
        module_class = table[ast.unparse(call.func).removeprefix("torch.").removeprefix("nn.")]
        positional = [ast.literal_eval(value) for value in call.args]
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise problem from error
    signature = inspect.signature(module_class)
    try:
        arguments = signature.bind(*positional, **named).arguments
        if module_class is nn.Identity and (positional or named):
            raise TypeError("it takes no arguments")
        for name, value in arguments.items():
            if not _suits(value, signature.parameters[name].default):
                raise TypeError(f"{name} cannot be {value!r}")
        return module_class(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"{key}: {shown}: {error}") from error


def _suits(value: Any, default: Any) -> bool:
    """Tell whether a literal fits an argument with this default; numbers must be finite and not huge."""
    if isinstance(value, tuple | list):
        return 0 < len(value) <= 4 and not isinstance(default, bool | str) and all(_suits(one, 0) for one in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(value, str) or isinstance(default, str):
        return isinstance(value, str) and isinstance(default, str)
    if value is None:
        return default is None
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= LARGEST_NUMBER


def parse_activation(text: Any) -> nn.Module | None:
    """The module of ``activation:``, None if the key is absent or empty.

    Raises:
        InputError: the text does not name an activation.
    """
    return None if text is None or text == "" else parse_module(text, ACTIVATIONS, "activation")


def module_text(module: nn.Module) -> str:
    """The text from which ``parse_module``, and v7.0, build an equal module.

    Raises:
        AttributeError: the module does not keep an argument of its constructor.
    """
    words = []
    all_before = True
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if name in _IGNORED:
            continue
        value = getattr(module, name)
        if isinstance(value, nn.Parameter):
            value = True
        if value == parameter.default:
            all_before = False
            continue
        by_name = not all_before or parameter.kind is parameter.KEYWORD_ONLY
        words.append(f"{name}={value!r}" if by_name else repr(value))
    return f"nn.{type(module).__name__}({', '.join(words)})"


def set_activation(layer: nn.Module, default: nn.Module) -> None:
    """Replace the built-in default activation in all convolution blocks of a freshly built ``layer``, in place.

    As in v7.0, an activation with parameters is one shared module; others are copied.
    """
    shared = any(True for _ in default.parameters())
    for module in layer.modules():
        if isinstance(module, Conv) and type(module.act) is nn.SiLU:
            module.act = default if shared else copy.deepcopy(default)
