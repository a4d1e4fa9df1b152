"""Options written once: a dataclass is the command line (``parse``) and the keywords of ``run(**kwargs)`` (``build``).

Each command has a dataclass whose fields are made by ``option``; the field's name with dashes is the flag, its type
and default are the flag's. A command that adds flags to another's inherits from its class.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import numbers
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import InputError, short_repr
from utils.installation import ROOT, words_to_show
from utils.version import MADE_BY

Options = TypeVar("Options")
AUTO_BATCH = -1  # --batch-size that stands for what fits
MOST = 1_000_000  # the largest whole number of an option that sets no other limit
LARGEST_IMAGE = 65_536  # pixels of a side
LARGEST_SEED = 2**32 - 1

# What a resumed run does with an option, said at the option itself (``on_resume``)
KEPT = "kept"  # the recorded value counts; another one on the command line is refused
OPEN = "open"  # the recorded value counts unless the command line gives another one
FOLDER = "folder"  # follows from where the checkpoint lies; the record is not read
CALL = "call"  # this command line alone decides; the record is not read


@dataclass(frozen=True)
class Range:
    """The numbers that an option takes, from ``least`` (None: any value is taken) to ``most``."""

    least: float | None
    most: float
    open_below: bool = False  # without ``least`` itself
    open_above: bool = False  # without ``most`` itself

    def __contains__(self, number: Any) -> bool:
        """Tell whether ``number`` lies within the range; NaN does not."""
        if self.least is None:
            return True
        high_enough = self.least < number if self.open_below else self.least <= number
        low_enough = number < self.most if self.open_above else number <= self.most
        return high_enough and low_enough

    def words(self, whole: bool) -> str:
        """The range as it is written in messages."""
        if whole:
            return f"be at least {self.least} and at most {self.most}"
        return f"lie in {'(' if self.open_below else '['}{self.least:g}, {self.most:g}{')' if self.open_above else ']'}"


def option(
    default: Any,
    text: str,
    *aliases: str,
    on_resume: str = KEPT,
    handed_on: bool = True,
    path: bool = False,
    at_least: float | None = None,
    at_most: float = MOST,
    above: float | None = None,
    below: float | None = None,
    also: tuple[Any, ...] = (),
    identity: bool | tuple[str, ...] = True,
    **argparse_arguments: Any,
) -> Any:
    """A dataclass field that is also a flag: ``text`` is its help, ``aliases`` are further spellings.

    A ``bool`` that is false by default becomes a switch; one that is true also gets ``--no-<name>``. A list default
    needs ``nargs``; other keywords go to ``ArgumentParser.add_argument`` as they are.

    Args:
        on_resume: KEPT, OPEN, FOLDER or CALL: whether a resumed run trusts its record of this option.
        handed_on: the command proposed as the next one repeats the value, if it has the option; False for what
            belongs to one run alone, such as its name.
        path: the value names a file or a folder.
        at_least, at_most: the range of a number, or of each in a list; every option that is a number has one.
        above, below: the same without the bound itself.
        also: values that are allowed in addition to these numbers.
        identity: results of another value are other results (see ``identity_of``); False for what changes no result,
            names of steps where only these depend on it.
    """
    limits = Range(
        at_least if above is None else above, at_most if below is None else below, above is not None, below is not None
    )
    metadata = {
        "help": text,
        "aliases": aliases,
        "arguments": argparse_arguments,
        "on_resume": on_resume,
        "handed_on": handed_on,
        "path": path,
        "range": limits,
        "also": also,
        "identity": identity,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class CheckedOptions:
    """Base of options whose numbers and switches are checked first.

    Each class checks what it adds in ``__post_init__`` after ``super().__post_init__()``. Options do not change once
    they are made; ``settle`` fills in defaults that depend on other options while they are.
    """

    def __post_init__(self) -> None:
        """Refuse numbers out of their range. Raises InputError."""
        check_numbers(self)


def identity_of(options: Any, step: str = "") -> dict[str, Any]:
    """The plain values of the options that decide on a result: of ``step``, or those that all steps depend on."""
    values, identity = to_dict(options), {}
    for field in dataclasses.fields(options):
        steps = field.metadata["identity"]
        if steps is True or (steps and step in steps):
            identity[field.name] = values[field.name]
    return identity


def flag_of(name: str) -> str:
    """The flag of the option ``name``."""
    return "--" + name.replace("_", "-")


def default_of(field: dataclasses.Field) -> Any:
    """The default of an option."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


class _HelpFormatter(argparse.HelpFormatter):
    """Shows defaults, but not those that stand for "not given": there the help text says what happens."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", argparse.SUPPRESS) or action.default == []:
            return action.help
        values = action.default if isinstance(action.default, list) else [action.default]
        shown = " ".join(str(value).removeprefix(f"{ROOT}{os.sep}") for value in values).replace("%", "%%")
        return f"{action.help} (default: {shown})"


def as_list(value: str | Path | Sequence[str | Path]) -> list[str]:
    """One file or text or several, as Python's callers give them, as the list of texts that a command line gives."""
    return [str(item) for item in ([value] if isinstance(value, (str, Path)) else value)]


def argument_parser(description: str, **settings: Any) -> argparse.ArgumentParser:
    """The argparse parser of a command, which answers ``--version``; ``settings`` as ArgumentParser takes them."""
    parser = argparse.ArgumentParser(description=description, **settings)
    parser.add_argument("--version", action="version", version=MADE_BY, help="print the version of this program")
    return parser


def parser_for(options_class: type, description: str) -> argparse.ArgumentParser:
    """The argparse parser of an options dataclass; prefix abbreviations work as in YOLOv5.

    Its help lists the options by the ``group`` of the class that declares them first, the most special class on top.
    """
    parser = argument_parser(description, formatter_class=_HelpFormatter, usage="%(prog)s [options]")
    homes = {name: base for base in options_class.__mro__ for name in vars(base).get("__annotations__", ())}
    titles = [vars(base)["group"] for base in options_class.__mro__ if "group" in vars(base)]
    groups = {title: parser.add_argument_group(title) for title in titles} if len(titles) > 1 else {}
    for field in dataclasses.fields(options_class):
        flag = flag_of(field.name)
        default = default_of(field)
        arguments = dict(field.metadata["arguments"])
        if "action" in arguments:
            pass
        elif isinstance(default, bool) and "nargs" not in arguments:
            arguments["action"] = argparse.BooleanOptionalAction if default else "store_true"
        elif "type" not in arguments:
            sample = default[0] if isinstance(default, list) and default else default
            arguments["type"] = type(sample) if isinstance(sample, (int, float)) else str
        help_text = field.metadata["help"].replace("%", "%%")
        target = groups.get(getattr(homes[field.name], "group", ""), parser)
        target.add_argument(
            flag, *field.metadata["aliases"], dest=field.name, default=default, help=help_text, **arguments
        )
    return parser


def parse(options_class: type[Options], description: str, argv: Sequence[str] | None = None) -> Options:
    """Read the command line (or ``argv``) into an options object; argparse exits with 2 on a bad one."""
    namespace = parser_for(options_class, description).parse_args(argv)
    return options_class(**vars(namespace))


def build(options_class: type[Options], **keywords: Any) -> Options:
    """An options object from keywords, as ``run(**kwargs)`` takes them. Unknown names raise InputError."""
    known = [field.name for field in dataclasses.fields(options_class)]  # type: ignore[arg-type]
    for name in keywords:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
            raise InputError(f"unknown option {short_repr(name)} for {options_class.__name__}{hint}")
    return options_class(**keywords)


def settle(options: Any, **values: Any) -> None:
    """Set fields of a frozen options object; only its own ``__post_init__`` may, for values that follow from others."""
    for name, value in values.items():
        object.__setattr__(options, name, value)


def to_dict(options: Any) -> dict[str, Any]:
    """The options as plain YAML-ready values (paths as text)."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def command_line(script: str, options_class: type, values: Mapping[str, Any]) -> str:
    """The command that gives a script these values of its options; those that are the defaults are left out."""
    words = words_to_show(script)
    for field in dataclasses.fields(options_class):
        value = values.get(field.name)
        if value is not None and value != default_of(field):
            words += flag_words(field.name, value)
    return quoted(words)


def flag_words(name: str, value: Any) -> list[str]:
    """The words of a command line that give the option ``name`` this value."""
    flag = flag_of(name)
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, (list, tuple)):
        return [flag, *map(str, value)]
    return [f"{flag}={value}"] if str(value).startswith("-") and isinstance(value, (str, Path)) else [flag, str(value)]


def quoted(words: Sequence[str]) -> str:
    """The words as one line to be pasted into a shell, of Windows on Windows."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def check_numbers(options: Any) -> None:
    """Check every option that is a number, a list of numbers or a switch; None passes where it is the default.

    Raises:
        InputError: by flag, the first value of another type or out of its range.
    """
    for field in dataclasses.fields(options):
        value, default = getattr(options, field.name), default_of(field)
        limits: Range = field.metadata["range"]
        if isinstance(default, bool) and "nargs" not in field.metadata["arguments"]:
            if value not in (True, False):
                raise InputError(f"{flag_of(field.name)} is a switch: expected True or False, got {short_repr(value)}")
        elif limits.least is not None and value is not default and value not in field.metadata["also"]:
            for number in value if isinstance(value, (list, tuple)) else [value]:
                _check_number(field, number)


def _check_number(field: dataclasses.Field, number: Any) -> None:
    """Raise InputError unless ``number`` is one that the option takes."""
    default, limits = default_of(field), field.metadata["range"]
    sample = default[0] if isinstance(default, list) and default else default
    whole = field.metadata["arguments"].get("type", type(sample)) is int
    is_number = isinstance(number, numbers.Integral if whole else numbers.Real) and not isinstance(number, bool)
    if not is_number or number not in limits:
        type_words = ", a whole number" if whole else ""
        others = "".join(f", or be {other}" for other in field.metadata["also"])
        raise InputError(
            f"{flag_of(field.name)} must {limits.words(whole)}{type_words}{others}, got {short_repr(number)}"
        )
