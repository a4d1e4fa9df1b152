"""The commands that a finished command proposes: they repeat what has to be repeated, and every word is quoted."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Protocol

from utils.commands.options import AUTO_BATCH, build, command_line, default_of, flag_words, quoted, to_dict
from utils.errors import InputError
from utils.installation import words_to_show
from utils.log import LOGGER

ALWAYS = ("data", "imgsz")  # repeated unless the weights record them, even if they are the defaults
_silent = False


class ScriptOptions(Protocol):
    """Options that know the script they belong to, as those of trainings do."""

    script: ClassVar[str]


@contextmanager
def no_proposals() -> Iterator[None]:
    """Have ``log_next`` log nothing within the block, which runs the next steps itself."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def log_next(*commands: str) -> None:
    """Log the commands that may come next, the likeliest first."""
    if not _silent:
        LOGGER.info("Next: " + "\n  or: ".join(commands))


def following(
    script: str,
    options_class: type,
    given: Any,
    *,
    exact: bool = False,
    recorded: Collection[str] = (),
    **values: Any,
) -> str:
    """The command of another script that continues from a command with the options ``given``.

    Args:
        script: the other command.
        options_class: its options; a base class of them will do.
        given: options of the finished command. What both commands have and hand on (see ``option``) is repeated: data
            and image size always, others where the user has changed them. None: there is nothing to repeat.
        exact: repeat every option that both have, so that the figures are the same.
        recorded: options that the command takes from the weights, which are not repeated.
        values: options of the other command, which go before ``given``'s.
    """
    fields = {field.name: field for field in dataclasses.fields(options_class)}
    words = words_to_show(script)
    for name, value in values.items():
        if name not in fields:
            raise TypeError(f"{options_class.__name__} has no option {name}")
        words += flag_words(name, value)
    for name, value in handed_on(given, options_class, exact).items():
        if name not in values and name not in recorded and (name in ALWAYS or value != default_of(fields[name])):
            words += flag_words(name, value)
    return quoted(words)


def again(options: ScriptOptions, **changes: Any) -> str:
    """The command of a training with these options but for ``changes``, in a new run folder.

    What other options imply, such as the scope of a goal, is left out.
    """
    values = to_dict(options) | {"exist_ok": False} | changes
    command = build(type(options), **values)
    before: dict[str, Any] = {}
    while before != values:
        before = dict(values)
        for name in before:
            fewer = {key: value for key, value in values.items() if key != name}
            with suppress(InputError):
                values = fewer if build(type(options), **fewer) == command else values
    return command_line(options.script, type(options), values)


def handed_on(given: Any, options_class: type, exact: bool = True) -> dict[str, Any]:
    """The values of ``given`` that a command with ``options_class`` takes over, as in ``following``."""
    taken = {field.name for field in dataclasses.fields(options_class) if field.metadata["handed_on"]}
    repeated: dict[str, Any] = {}
    for field in dataclasses.fields(given) if given is not None else ():
        name, value = field.name, getattr(given, field.name)
        if not field.metadata["handed_on"] or name not in taken or value is None or value == "":
            continue
        if not exact and name not in ALWAYS and value == default_of(field):
            continue
        if not hasattr(options_class, "sync_bn"):  # it runs in one process, with a batch size of its own
            value = value.split(",")[0] if name == "device" else value
            if name == "batch_size" and value == AUTO_BATCH:
                continue
        repeated[name] = value
    return repeated
