"""Names from files of others: what reaches the terminal, and what becomes a folder or a file."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from utils import log
from utils.commands.cli import run_command
from utils.errors import InputError
from utils.log import LOGGER, colorstr, setup_logging, terminal_text
from utils.storage.files import safe_name
from utils.storage.results import folder_names

ORDINARY = ["person", "traffic light", "口罩", "Café", "no-mask_2", "می‌خواهم", "👩‍🚒", "it's 100%", "a.b"]
HOSTILE = ["..", ".", "", "/", "\\", "a/b", "a:b", "a_b", "A_B", "nul", "COM1", "aux.txt", "x.", "x ", "x",
           "\x1b[31mred", "two\nlines", "\u202eabc", "\ud800", "é" * 400, "é" * 399, "\x00", "CON ",
           ".hidden"]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_names_stay(text):
    assert terminal_text(text) == safe_name(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"), ("a\r\nb", r"a\r\nb"), ("\u202egnp.exe", r"\u202egnp.exe"), ("\u2066", r"\u2066"),
        ("\x9b31m", r"\x9b31m"), ("\u2028", r"\u2028"), ("\udcff", r"\udcff"), ("\ufeff", r"\ufeff"), ("\x7f", r"\x7f"),
    ],
)  # fmt: skip
def test_control_characters_are_spelled_out(text, shown):
    assert terminal_text(text) == shown


def test_distinct_classes_have_distinct_folders(tmp_path):
    names = dict(enumerate([*ORDINARY, *HOSTILE]))
    folders = folder_names(names, tmp_path)
    for folder in folders.values():
        assert len(folder.encode()) <= 255
        assert Path(folder).name == folder and folder not in ("", ".", "..")
        (tmp_path / folder).mkdir()  # fails if it is there
    assert len({folder.casefold() for folder in folders.values()}) == len(names)
    assert [folders[index] for index in range(len(ORDINARY))] == ORDINARY
    assert folder_names({0: "a/b", 1: "a_b"}, tmp_path) == {0: "a_b_0", 1: "a_b"}  # who needs no change keeps its name
    assert folder_names({0: "car", 1: "car", 2: "car_1"}, tmp_path) == {0: "car", 1: "car_1_1", 2: "car_1"}


@pytest.mark.parametrize("device", ["con", "PRN", "nul.txt", "com1", "LPT9.log", "COM¹", "conin$"])
def test_devices_of_windows(device):
    assert safe_name(device) == f"_{device}"


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    """The logger as a command sets it up, writing to a text that is read here."""
    stream = io.StringIO()
    monkeypatch.setattr(LOGGER, "handlers", [])
    monkeypatch.setattr(LOGGER, "propagate", LOGGER.propagate)
    monkeypatch.setattr(LOGGER, "level", LOGGER.level)
    monkeypatch.setattr(sys, "stderr", stream)
    setup_logging()
    return stream


def test_the_log_has_no_control_characters_but_its_own(terminal, monkeypatch):
    LOGGER.info("%15s", "\x1b]0;title\x07")
    LOGGER.info("a table\nof two lines")
    LOGGER.warning("forged\nerror: lost")
    assert terminal.getvalue() == "     \\x1b]0;title\\x07\na table\nof two lines\nWARNING: forged\\nerror: lost\n"
    terminal.truncate(0)
    terminal.seek(0)
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    LOGGER.info(colorstr("bold", "runs/exp") + "\x1b[2J")
    LOGGER.warning("val: WARNING: once")
    assert terminal.getvalue() == "\x1b[1mruns/exp\x1b[0m\\x1b[2J\nval: WARNING: once\n"


def test_an_error_is_one_line_without_control_characters():
    def fail() -> None:
        raise InputError("no such file: a\nb\x1b[2J")

    with pytest.raises(SystemExit, match=r"^error: no such file: a\\nb\\x1b\[2J$"):
        run_command(fail)


def test_tracebacks_keep_their_lines(terminal):
    try:
        raise KeyError("x")
    except KeyError:
        LOGGER.log(logging.ERROR, "failed", exc_info=True)
    assert len(terminal.getvalue().splitlines()) > 3
    assert log._OWN_STYLE.split("plain") == ["plain"]
