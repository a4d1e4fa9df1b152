"""The documentation: the Chinese pages say what the English ones say, and both are a site without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from utils.storage.files import ROOT

CHINESE = ROOT / "docs/zh-CN"
ENGLISH_PAGES = sorted((ROOT / "docs").glob("*.md"))
SAYS_CHINESE = re.compile("[\u4e00-\u9fff]")


def pairs() -> list[tuple[Path, Path]]:
    """Each English page with its Chinese one."""
    return [(ROOT / "README.md", ROOT / "README.zh-CN.md"), *((page, CHINESE / page.name) for page in ENGLISH_PAGES)]


def blocks(text: str) -> list[str]:
    """The lines of all code blocks, without what is translated: comments, and words in <angle brackets>."""
    inside = re.findall(r"^```.*?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    translated = re.compile(r"(^|\s)(#|//) .*$|<[^<>]+>")
    return [translated.sub("", line).rstrip() for block in inside for line in block.splitlines()]


def outline(text: str) -> list[int]:
    """Levels of the headings, in order."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", plain, flags=re.MULTILINE)]


def table_rows(text: str) -> list[int]:
    """Number of columns of each row of a table, in order."""
    return [line.count("|") for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("english, chinese", pairs(), ids=lambda page: page.name)
def test_a_chinese_page_has_the_headings_commands_and_tables_of_the_english_one(english, chinese):
    texts = [page.read_text(encoding="utf-8") for page in (english, chinese)]
    for read in (outline, blocks, table_rows):
        ours, theirs = map(read, texts)
        assert ours == theirs, f"{read.__name__} of {chinese.name} and {english.name} differ"
    assert len(SAYS_CHINESE.findall(texts[1])) > len(SAYS_CHINESE.findall(texts[0])) + 100


def test_every_chinese_page_has_an_english_one():
    assert {page.name for page in CHINESE.glob("*.md")} == {page.name for page in ENGLISH_PAGES}


@pytest.mark.parametrize(
    "address, link, expected",
    [
        ("index.md", "[a](docs/DATA.md#own)", "[a](DATA.md#own)"),
        ("index.md", "[中](README.zh-CN.md)", "[中](zh-CN/index.md)"),
        ("zh-CN/index.md", "![a](readmeImg/widths.png)", "![a](../readmeImg/widths.png)"),
        ("DATA.md", "[a](../data/mask.yaml) and [b](../SECURITY.md)", "a and [b](SECURITY.md)"),
        ("DATA.md", "[a](#own) [b](https://host/x)", "[a](#own) [b](https://host/x)"),
        ("zh-CN/DATA.md", "[a](../PRUNING.md)", "[a](../PRUNING.md)"),
        ("DATA.md", "```\n[a](../data/mask.yaml)\n```", "```\n[a](../data/mask.yaml)\n```"),
        ("DATA.md", "[a](../missing.md)", "[a](missing.md)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(address, link, expected):
    pytest.importorskip("mkdocs")
    from docs.site_pages import rewritten

    assert rewritten(link, address) == expected


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "site/zh-CN/index.html").is_file()
