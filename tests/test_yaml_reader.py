"""The YAML reader: the safe loader's values, and one line for whatever is wrong, soon, on any parser."""

from __future__ import annotations

import ast
import datetime
import re

import pytest
import yaml

from utils.errors import LONGEST_QUOTE, InputError, MissingFileError, short_repr
from utils.storage import yaml_reader
from utils.storage.files import ROOT, read_yaml, read_yaml_mapping
from utils.storage.yaml_reader import DEEPEST, MOST_BYTES, parse_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


@pytest.fixture(params=["libyaml", "Python"])
def parser(request, monkeypatch):
    """A test that uses this runs with both of PyYAML's parsers."""
    if request.param == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("this PyYAML is without libyaml")


def error_of(text: str | bytes) -> str:
    """The one line about a text that cannot be read."""
    with pytest.raises(InputError) as caught:
        parse_yaml(text.encode() if isinstance(text, str) else text, "x.yaml")
    message = str(caught.value)
    assert message.startswith("x.yaml")
    assert "\n" not in message
    assert len(message) < 400
    return message


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("text", [
    "", "# nothing\n", "---\n...\n", "a", "7", "[]", "{}", "a: 1\nb: [x, 2.5, ~, yes, No, 0x1F, 017, 1_000, 10:30]\n",
    "'1': \"2\"\n3: four\n", "a: |\n  one\n  two\nb: >\n  one\n  two\n",
    "when: 2001-01-01\nat: 2001-01-01 10:20:30.5 +1\n",
    ".inf: -.inf\nx: 1e5\ny: 1.e+5\n", "base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\nboth: {<<: [*b, {z: 4}]}\n",
    "- &a [1, 2]\n- *a\n", "!!str 12", "!!float 3", "!!int '3'", "!!map {a: 1}", "!!seq [1]", "? a\n: b\n",
    "\r\na: 1\r\nb: 人脸\r\n", "- [-1, 3, C3, [128]]\n- [[-1, 6], 1, Concat, [1]]\n",
])  # fmt: skip
def test_values_are_those_of_the_safe_loader(text):
    expected = yaml.safe_load(text)
    assert repr(parse_yaml(text.encode(), "x.yaml")) == repr(expected)


def test_every_shipped_file_reads_as_with_the_safe_loader():
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    files = [*ROOT.glob("data/**/*.yaml"), *ROOT.glob("models/**/*.yaml")]
    assert len(files) > 20
    for path in files:
        assert read_yaml(path) == yaml.load(path.read_bytes(), loader), path


def test_a_byte_order_mark_is_left_out(tmp_path):
    (tmp_path / "x.yaml").write_bytes("names: [人脸]\n".encode("utf-8-sig"))
    assert read_yaml(tmp_path / "x.yaml") == {"names": ["人脸"]}


def test_dates_are_kept():
    assert parse_yaml(b"2001-02-03", "x.yaml") == datetime.date(2001, 2, 3)


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(("encoding", "name"), [
    ("gbk", "人脸"), ("cp1252", "Café"), ("latin-1", "Straße"), ("shift-jis", "マスク"), ("euc-kr", "얼굴"),
    ("big5", "口罩"),
])  # fmt: skip
def test_other_encodings_are_refused_with_the_line_and_the_remedy(encoding, name):
    message = error_of(f"path: x\nnames:\n  0: a\n  1: {name}\n".encode(encoding))
    assert message.startswith("x.yaml, line 4: ")
    assert "UTF-8 is expected" in message
    assert "iconv" in message


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["b", "人脸"])
def test_utf_16_is_named(encoding, name):
    message = error_of(f"names: [a, {name}]\n".encode(encoding))
    assert "UTF-16" in message
    assert "UTF-8 is expected" in message


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(("text", "lines"), [
    ("nc: 1\nnames: [a]\nnc: 2\n", (3, 1)), ("{a: 1, a: 1}", (1, 1)), ("names:\n  0: a\n  1: b\n  1: c\n", (4, 3)),
    ("x: 1\n'x': 2\n", (2, 1)), ("a: {b: 1}\nc: {b: 1,\n  b: 2}", (3, 2)),
])  # fmt: skip
def test_a_key_that_stands_twice_is_named_with_both_lines(text, lines):
    message = error_of(text)
    assert f"line {lines[0]}:" in message
    assert f"already in line {lines[1]}:" in message


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(("text", "expected"), [
    ("x: 1\na: 2001-99-99", "line 2: '2001-99-99' is not a valid timestamp"),
    ("a: 2001-01-01 99:00:00", "timestamp"), ("nc: " + "9" * 5000, "too long for a value of the type int"),
    ("a: 1." + "9" * 5000, "too long"), ("a: 1" + ":1" * 9000, "too long"),
    ("a: !!int x", "'x' is not a valid int"), ("a: !!int ''", "valid int"), ("a: !!float x", "valid float"),
    ("a: !!bool maybe", "valid bool"), ("a: !!timestamp x", "valid timestamp"),
    ("a: !!binary aa", "binary' is not allowed"), ("!!set {a, b}", "not allowed"),
    ("!own [1]", "'!own' is not allowed"),
    ("!!python/object/apply:os.system [ls]", "not allowed"), ("!!str [a]", "not allowed"),
    ("a: \"x\\0y\"", "NUL"), ("a: b\0c", "NUL"), ("a: b\x07c", "line 1: holds the character"),
    ("&a [*a]", "without end"), ("a: &a {b: *a}", "without end"), ("&a [&a [*a]]", "within itself"),
    ("[*nothing]", "stands for nothing"), ("[a]: 1", "cannot be a key"), ("? {a: 1}\n: 2", "cannot be a key"),
    ("<<: 3", "<< takes a mapping"), ("a\n---\nb", "line 2: a second document"),
    ("a:\n\tb: 1", "line 2: .*not with tabs"),
    ("train: [a\n", "not valid YAML at line"), ("a: b: c", "not valid YAML at line 1"),
    ("%YAML 9.9\n---\na", "not valid"),
    ("%YAML " + "9" * 5000 + ".1\n---\na", "not valid"), ("a: \"\\UFFFFFFFF\"", "not valid|cannot"),
    ("a: \"\\ud800\"", "not valid|surrogate pair"),
])  # fmt: skip
def test_one_line_says_what_is_wrong(text, expected):
    assert re.search(expected, error_of(text))


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(("text", "expected"), [
    ("[" * 500, f"more than {DEEPEST} deep"), ("{a: " * 500, "deep"), ("- " * 5000, "deep"), ("[{x: " * 9000, "deep"),
    (LAUGHS, "with aliases"), (LAUGHS.replace("x,", "x" * 999 + ","), "with aliases"),
    ("a: &a '" + "x" * 100_000 + "'\nb: [" + "*a, " * 999 + "]", "characters, with aliases"),
    ("#" * (MOST_BYTES + 1), "larger than"),
], ids=lambda value: value[:12])  # fmt: skip
def test_what_would_grow_without_bounds_is_refused(text, expected):
    assert expected in error_of(text)


def test_the_number_of_values_is_limited(monkeypatch):
    monkeypatch.setattr(yaml_reader, "MOST_VALUES", 1000)
    assert len(parse_yaml(b"[" + b"1," * 999 + b"]", "x.yaml")) == 999
    assert "more than 1000 values" in error_of("[" + "1," * 1000 + "]")
    assert "with aliases" in error_of("- &a [1, 2, 3]\n" + "- *a\n" * 250)


def test_files_are_checked_before_they_are_read(tmp_path):
    with pytest.raises(MissingFileError):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(MissingFileError):
        read_yaml(tmp_path)
    with (tmp_path / "large.yaml").open("wb") as stream:
        stream.truncate(1 << 40)  # a hole of a TiB
    with pytest.raises(InputError, match=r"large\.yaml is larger than"):
        read_yaml(tmp_path / "large.yaml")


@pytest.mark.parametrize("text", ["", "[a]", "a", "7"])
def test_a_mapping_can_be_asked_for(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=r"x\.yaml .*expected"):
        read_yaml_mapping(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("a: 1")
    assert read_yaml_mapping(tmp_path / "x.yaml") == {"a": 1}


# -- messages ----------------------------------------------------------------------------------------------------------


class Endless:
    """A value whose representation has many lines."""

    def __repr__(self) -> str:
        return "line\n" * 1000


@pytest.mark.parametrize("value", [
    10**5000, -(10**9999), "x" * 10**7, ["x" * 10**6] * 10**5, {index: [index] * 999 for index in range(999)},
    Endless(),
    "a\nb", {"a": {"b": {"c": {"d": {}}}}}, {(1, 2): {3}}, b"x" * 10**6, "人" * 999,
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_quotes_are_short_and_of_one_line(value):
    text = short_repr(value)
    assert len(text) <= LONGEST_QUOTE
    assert "\n" not in text


def test_a_list_that_holds_itself_can_be_quoted():
    value: list[object] = []
    value.append(value)
    assert short_repr(value).startswith("[[")


@pytest.mark.parametrize("value", [0, -7, 1.5, True, None, "two", [1, "a"], {"a": [1]}, "it's"])
def test_small_values_are_quoted_whole(value):
    assert short_repr(value) == repr(value)


# -- the only reader ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_else_reads_yaml():
    """Each use of a loading function or a loader class of PyYAML, by file."""
    users = set()
    for file in ROOT.rglob("*.py"):
        inside = file.relative_to(ROOT)
        if inside.parts[0].startswith(".") or inside.parts[0] in ("tests", "runs"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            imported = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != "yaml":
                imported = []
            of_yaml = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml"
            if imported or (of_yaml and ("load" in name.lower() or name in ("parse", "compose", "scan"))):
                users.add(inside.as_posix())
    assert users == {"utils/storage/yaml_reader.py"}
