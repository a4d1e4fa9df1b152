"""Read YAML as plain values, within limits; an error is one line that names the file and the line.

PyYAML's parser yields events; like its safe loader, this module turns them into dicts, lists, strings, numbers,
booleans, None and dates, and nothing else. Unlike that loader it rejects text that is not UTF-8, repeated keys, and
whatever could grow without bounds: nesting, values, expanded aliases, the digits of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from utils.errors import InputError, short_repr

MOST_BYTES = 1 << 21  # of a file
MOST_VALUES = 100_000  # with every alias expanded
MOST_CHARACTERS = 1 << 22  # of all strings, with every alias expanded
DEEPEST = 32
LONGEST_NUMBER = 64  # characters

_TAG = "tag:yaml.org,2002:"
_CONSTRUCTED = ("null", "bool", "int", "float", "timestamp")  # scalars that the safe loader converts
_TEXTS = ("str", "value", "merge")  # "=" is text, and so is "<<" unless it is a key


@dataclass
class _Value:
    """A complete value, the line it begins at, and its size with aliases expanded."""

    content: Any
    line: int
    values: int = 1
    characters: int = 0


@dataclass
class _Collection:
    """A list or a mapping whose end has not been reached."""

    content: list[Any] | dict[Any, Any]
    line: int
    anchor: str | None
    values: int = 1
    characters: int = 0
    key: _Value | None = None  # of a mapping: the key whose value comes next
    lines: dict[Any, int] = field(default_factory=dict)  # of a mapping: the line of each key
    merged: dict[Any, Any] = field(default_factory=dict)  # of a mapping: the entries of <<


def decode_utf8(content: bytes, source: object) -> str:
    """The text of a file without a byte order mark. Raises InputError with the line if it is not UTF-8."""
    expected = "UTF-8 is expected: convert it in an editor, or with iconv -f {} -t UTF-8 OLD > NEW"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{source}, line 1: the text is UTF-16, but {expected.format('UTF-16')}")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise InputError(f"{source}, line {line}: a NUL character, as in UTF-16, but {expected.format('UTF-16')}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        expected = expected.format("ENCODING") + " (GBK, CP1252, SHIFT-JIS, EUC-KR ...)"
        raise InputError(
            f"{source}, line {line}: byte 0x{content[error.start]:02X} is not UTF-8, but {expected}"
        ) from error


def parse_yaml(content: bytes, source: object, as_written: bool = False) -> Any:
    """The plain values of a YAML document; None if it is empty.

    With ``as_written`` numbers and dates are returned as the text in the file (007 is '007', not 7).

    Raises:
        InputError: not UTF-8, not YAML, a repeated key, an invalid value, or beyond a limit.
    """
    if len(content) > MOST_BYTES:
        raise InputError(f"{source} is larger than {MOST_BYTES >> 10} KiB, the limit for YAML files")
    return _Builder(decode_utf8(content, source), source, as_written).build()


class _Builder:
    """Builds values from the events of one document, without recursion."""

    def __init__(self, text: str, source: object, as_written: bool) -> None:
        self.text = text
        self.source = source
        self.as_written = as_written
        self.finished: dict[str, _Value] = {}  # by anchor
        self.waiting: list[_Collection] = []  # from the outermost to the innermost
        wrong = yaml.SafeLoader.NON_PRINTABLE.search(text)
        if wrong:
            line = text.count("\n", 0, wrong.start()) + 1
            self._refuse(line, f"holds the character {wrong[0]!r}, which YAML does not allow: remove it")
        self.loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)  # libyaml's parser is 40 times as fast
        self.kinds = {f"{_TAG}{kind}": getattr(self.loader, f"construct_yaml_{kind}") for kind in _CONSTRUCTED}

    def build(self) -> Any:
        """The content of the document."""
        root: _Value | None = None
        documents = 0
        for event in self._events():
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(line, "a second document begins, one is expected: remove the line ---")
            elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                self._open(event, line)
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                root = self._add(self._close())
            elif isinstance(event, yaml.ScalarEvent):
                root = self._add(self._named(event.anchor, self._scalar(event, line)))
            elif isinstance(event, yaml.AliasEvent):
                root = self._add(self._alias(event.anchor, line))
        return None if root is None else root.content

    def _events(self) -> Iterator[Any]:
        try:
            while self.loader.check_event():
                yield self.loader.get_event()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            hint = ": indent with spaces, not with tabs" if self._begins_with_tab(line) else ""
            reason = f"{str(error.problem or error.context)[:200]}{hint}"
            raise InputError(f"{self.source} is not valid YAML at line {line}: {reason}") from error
        except (ValueError, OverflowError) as error:  # invalid numbers in escapes and directives, without libyaml
            raise InputError(f"{self.source} is not valid YAML: {str(error)[:200]}") from error

    def _begins_with_tab(self, line: int) -> bool:
        return any("\t" in text[: len(text) - len(text.lstrip())] for text in self.text.splitlines()[line - 1 : line])

    def _refuse(self, line: int, reason: str) -> NoReturn:
        raise InputError(f"{self.source}, line {line}: {reason}")

    def _refuse_tag(self, line: int, tag: str) -> NoReturn:
        self._refuse(line, f"the tag {short_repr(tag)} is not allowed: only plain values are read, leave it out")

    # -- values --------------------------------------------------------------------------------------------------------

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> _Value:
        text: str = event.value
        tag: str = event.tag or "!"
        if tag == "!":
            tag = self.loader.resolve(yaml.ScalarNode, text, event.implicit)
        if tag.removeprefix(_TAG) in _TEXTS:
            if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                self._refuse(line, f"{short_repr(text)} holds NUL or half of a surrogate pair, which no text can have")
            if tag == f"{_TAG}merge" and not self._awaits_key():
                tag = f"{_TAG}str"
            return _Value(_MERGE if tag == f"{_TAG}merge" else text, line, characters=len(text))
        construct = self.kinds.get(tag)
        if construct is None:
            self._refuse_tag(line, tag)
        kind = tag.removeprefix(_TAG)
        if len(text) > LONGEST_NUMBER:
            self._refuse(line, f"{short_repr(text)} is too long for a value of the type {kind}: put text in quotes")
        try:
            value = construct(yaml.ScalarNode(tag, text))
        except (ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
            reason = f"{short_repr(text)} is not a valid {kind}: correct it, or put text in quotes"
            raise InputError(f"{self.source}, line {line}: {reason}") from error
        if self.as_written and kind in ("int", "float", "timestamp"):
            value = text
        return _Value(value, line, characters=len(text))

    def _alias(self, anchor: str | None, line: int) -> _Value:
        name = str(anchor)[:40]
        if any(collection.anchor == anchor for collection in self.waiting):
            self._refuse(line, f"*{name} lies within what it stands for, without end: write out the values")
        known = self.finished.get(str(anchor))
        if known is None:
            self._refuse(line, f"*{name} stands for nothing: no &{name} comes before it")
        return _Value(known.content, line, known.values, known.characters)

    def _named(self, anchor: str | None, value: _Value) -> _Value:
        if anchor is not None:
            self.finished[anchor] = value
        return value

    # -- collections ---------------------------------------------------------------------------------------------------

    def _open(self, event: yaml.CollectionStartEvent, line: int) -> None:
        kind = "seq" if isinstance(event, yaml.SequenceStartEvent) else "map"
        if event.tag not in (None, "!", f"{_TAG}{kind}"):
            self._refuse(
                line, f"the tag {short_repr(event.tag)} is not allowed: only plain values are read, leave it out"
            )
        if event.anchor is not None and any(event.anchor == outer.anchor for outer in self.waiting):
            self._refuse(line, f"&{event.anchor[:40]} is given to a value within itself: choose another name")
        if len(self.waiting) == DEEPEST:
            self._refuse(line, f"lists and mappings are nested more than {DEEPEST} deep")
        if self._awaits_key():
            self._refuse(line, "a list or mapping cannot be a key")
        self.waiting.append(_Collection([] if kind == "seq" else {}, line, event.anchor))

    def _close(self) -> _Value:
        closed = self.waiting.pop()
        if isinstance(closed.content, dict) and closed.merged:
            closed.content = closed.merged | closed.content
        return self._named(closed.anchor, _Value(closed.content, closed.line, closed.values, closed.characters))

    def _awaits_key(self) -> bool:
        return bool(self.waiting) and isinstance(self.waiting[-1].content, dict) and self.waiting[-1].key is None

    def _add(self, value: _Value) -> _Value:
        """Put a value into the innermost collection, if there is one."""
        if not self.waiting:
            return value
        inner = self.waiting[-1]
        inner.values += value.values
        inner.characters += value.characters
        if sum(outer.values for outer in self.waiting) > MOST_VALUES:
            self._refuse(value.line, f"the file holds more than {MOST_VALUES} values, with aliases (*name) written out")
        if sum(outer.characters for outer in self.waiting) > MOST_CHARACTERS:
            self._refuse(
                value.line, f"the texts are over {MOST_CHARACTERS} characters, with aliases (*name) written out"
            )
        if isinstance(inner.content, list):
            inner.content.append(value.content)
        elif inner.key is None:
            self._add_key(inner, value)
        else:
            key, inner.key = inner.key, None
            if key.content is _MERGE:
                self._merge(inner, value)
            else:
                inner.content[key.content] = value.content
        return value

    def _add_key(self, inner: _Collection, key: _Value) -> None:
        if isinstance(key.content, (list, dict)):
            self._refuse(key.line, "a list or mapping cannot be a key")
        if key.content in inner.lines:
            first = inner.lines[key.content]
            self._refuse(key.line, f"the key {short_repr(key.content)} is already in line {first}: remove one of them")
        if key.content is not _MERGE:
            inner.lines[key.content] = key.line
        inner.key = key

    def _merge(self, inner: _Collection, value: _Value) -> None:
        parts = value.content if isinstance(value.content, list) else [value.content]
        for part in parts:
            if not isinstance(part, dict):
                self._refuse(value.line, f"<< takes a mapping or a list of mappings, got {short_repr(part)}")
            for name, content in part.items():
                inner.merged.setdefault(name, content)


class _Merge:
    """The key ``<<``."""

    def __repr__(self) -> str:
        return "<<"


_MERGE = _Merge()
