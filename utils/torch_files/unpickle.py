"""A pickle interpreter that only creates records: it imports nothing, calls nothing and creates no other object.

It knows what ``torch.save`` writes in protocols 2 to 5, and enough of the older ones to name the classes that a file
asks for. Everything else that a pickle can do is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

from utils.torch_files.machine import Machine, checked_int
from utils.torch_files.records import OPCODES, TEXT_BYTES, Damage, Refusal

HIGHEST_PROTOCOL = 5
STOP = ord(".")
_WHOLE_NUMBER = re.compile(rb"[+-]?\d{1,20}L?")
_NO_PICKLE = (struct.error, IndexError, KeyError, UnicodeError, ValueError, OverflowError)

Operation = Callable[[Machine], Any]


def interpret(machine: Machine) -> Any:
    """The value of the pickle at the machine's position, which moves to its end.

    Raises:
        Damage: it is not a pickle, or is incomplete. ForeignName, Refusal: it is not the pickle of a checkpoint.
    """
    operations = OPERATIONS
    data = machine.data
    end = machine.end
    try:
        for _ in range(OPCODES):
            position = machine.position
            if position >= end:
                raise Damage("its pickle ends in the middle")
            machine.position = position + 1
            opcode = data[position]
            if opcode == STOP:
                return _result(machine)
            operations[opcode](machine)
    except _NO_PICKLE as error:
        raise Damage(f"its pickle is not valid: {type(error).__name__} at byte {machine.position}") from error
    raise Refusal(f"its pickle has more than {OPCODES} steps")


def _result(machine: Machine) -> Any:
    if machine.marks or len(machine.stack) != 1:
        raise Damage("its pickle leaves something behind")
    return machine.stack.pop()


def _refused(name: str) -> Operation:
    def refuse(_: Machine) -> None:
        raise Refusal(f"its pickle has the opcode {name}, which torch.save does not write")

    return refuse


def _unknown(machine: Machine) -> None:
    raise Damage(f"it is not a pickle: byte {machine.position - 1} is not an opcode")


def _protocol(machine: Machine) -> None:
    if machine.number(1) > HIGHEST_PROTOCOL:
        raise Damage("its pickle is of a protocol that does not exist")


def _frame(machine: Machine) -> None:
    if machine.number(8) > machine.end - machine.position:
        raise Damage("its pickle ends in the middle")


def _push(read: Callable[[Machine], Any]) -> Operation:
    def push(machine: Machine) -> None:
        value = read(machine)
        machine.stack.append(value)

    return push


def _push_small(machine: Machine) -> None:
    machine.stack.append(machine.data[machine.position])
    machine.position += 1


def _get_small(machine: Machine) -> None:
    machine.stack.append(machine.memo[machine.data[machine.position]])
    machine.position += 1


def _put(index: Callable[[Machine], int]) -> Operation:
    def put(machine: Machine) -> None:
        machine.memo[index(machine)] = machine.stack[-1]

    return put


def _put_long(machine: Machine) -> None:
    machine.memo[int.from_bytes(machine.take(4), "little")] = machine.stack[-1]


def _with_top(put: Callable[[Machine, Any, list[Any]], None], count: int = 0) -> Operation:
    """An operation that adds the topmost ``count`` values, or those above the mark, to the container below."""

    def operate(machine: Machine) -> None:
        if count > len(machine.stack):
            raise Damage("its pickle takes more than there is")
        items = machine.stack[-count:] if count else machine.pop_mark()
        if count:
            del machine.stack[-count:]
        put(machine, machine.stack[-1], items)

    return operate


def _global(machine: Machine) -> None:
    machine.push_name(machine.line().decode("ascii"), machine.line().decode("ascii"))


def _stack_global(machine: Machine) -> None:
    name = machine.stack.pop()
    module = machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise Damage("its pickle names no class")
    machine.push_name(module, name)


def _instance(machine: Machine) -> None:
    _global(machine)  # raises ForeignName for a class that is not allowed
    raise Refusal("its pickle has the opcode INST, which torch.save does not write")


def _number_line(machine: Machine) -> Any:
    text = machine.line()
    if text in (b"00", b"01"):
        return text == b"01"
    if not _WHOLE_NUMBER.fullmatch(text):
        raise Damage("its pickle has an impossible number")
    return checked_int(int(text.rstrip(b"L")))


def _index_line(machine: Machine) -> int:
    text = machine.line()
    if not text.isdigit() or len(text) > 9:
        raise Damage("its pickle has an impossible number")
    return int(text)


_TABLE: dict[str, Operation] = {
    "(": Machine.push_mark, "0": Machine.pop, "1": Machine.pop_mark, "2": _refused("DUP"),
    "P": _refused("PERSID"), "S": _refused("STRING"), "T": _refused("BINSTRING"), "U": _refused("SHORT_BINSTRING"),
    "o": _refused("OBJ"), "i": _instance, "\x82": _refused("EXT1"), "\x83": _refused("EXT2"), "\x84": _refused("EXT4"),
    "\x91": _refused("FROZENSET"), "\x92": _refused("NEWOBJ_EX"), "\x96": _refused("BYTEARRAY8"),
    "\x97": _refused("NEXT_BUFFER"), "\x98": _refused("READONLY_BUFFER"),
    # values
    "N": _push(lambda machine: None), "\x88": _push(lambda machine: True), "\x89": _push(lambda machine: False),
    "I": _push(_number_line), "L": _push(_number_line), "F": _push(lambda machine: float(machine.line(40))),
    "K": _push_small, "M": _push(lambda machine: machine.number(2)),
    "J": _push(lambda machine: int.from_bytes(machine.take(4), "little", signed=True)),
    "\x8a": _push(lambda machine: machine.long(1)), "\x8b": _push(lambda machine: machine.long(4)),
    "G": _push(lambda machine: struct.unpack(">d", machine.take(8))[0]),
    "V": _push(lambda machine: machine.line(TEXT_BYTES).decode("raw-unicode-escape")),
    "X": _push(lambda machine: machine.text(4)), "\x8c": _push(lambda machine: machine.text(1)),
    "\x8d": _push(lambda machine: machine.text(8)), "C": _push(lambda machine: machine.content(1)),
    "B": _push(lambda machine: machine.content(4)), "\x8e": _push(lambda machine: machine.content(8)),
    # containers
    "]": _push(lambda machine: []), "}": _push(lambda machine: {}), ")": _push(lambda machine: ()),
    "\x8f": _push(lambda machine: set()), "l": _push(Machine.pop_mark), "d": Machine.push_dict,
    "t": _push(lambda machine: tuple(machine.pop_mark())), "\x85": lambda machine: machine.push_tuple(1),
    "\x86": lambda machine: machine.push_tuple(2), "\x87": lambda machine: machine.push_tuple(3),
    "a": _with_top(Machine.append, 1), "e": _with_top(Machine.append), "\x90": _with_top(Machine.add),
    "s": _with_top(Machine.set_items, 2), "u": _with_top(Machine.set_items),
    # memo
    "g": _push(lambda machine: machine.memo[_index_line(machine)]), "h": _get_small,
    "j": _push(lambda machine: machine.memo[machine.number(4)]), "p": _put(_index_line),
    "q": _put(lambda machine: machine.number(1)), "r": _put_long,
    "\x94": _put(lambda machine: len(machine.memo)),
    # records
    "c": _global, "\x93": _stack_global, "R": Machine.reduce, "b": Machine.build, "\x81": Machine.new_object,
    "Q": Machine.push_persistent, "\x80": _protocol, "\x95": _frame,
}  # fmt: skip
OPERATIONS = [_TABLE.get(chr(code), _unknown) for code in range(256)]
