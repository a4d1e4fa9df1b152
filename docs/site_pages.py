"""Hooks of mkdocs: the pages beside docs/ become part of the site, and links work there as they do in the repository.

Pages of the repository's root (README.md and others) are taken from where they lie. A link to another page is written
as one from page to page of the site; a link to a file that is not a page, such as a YAML, keeps its text alone.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
HOME = {"README.md": "index.md", "README.zh-CN.md": "zh-CN/index.md"}
ROOT_PAGES = HOME | {name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}
PICTURES = "readmeImg"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures of the repository's root."""
    pictures = {f"{PICTURES}/{file.name}": f"{PICTURES}/{file.name}" for file in (ROOT / PICTURES).iterdir()}
    for source, address in (ROOT_PAGES | pictures).items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page."""
    return rewritten(markdown, page.file.src_uri)


def rewritten(markdown: str, address: str) -> str:
    """``markdown`` of the page at ``address`` of the site, with its links as they are there."""
    source = source_of(address)

    def replace(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        there = address_of(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if there is None:
            return text
        link = posixpath.relpath(there, posixpath.dirname(address) or ".")
        return f"{picture}[{text}]({link}{'#' + anchor if anchor else ''})"

    blocks = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)  # every second one is code
    return "".join(block if number % 2 else LINK.sub(replace, block) for number, block in enumerate(blocks))


def source_of(address: str) -> str:
    """Path in the repository of the page at ``address`` of the site."""
    sources: dict[str, str] = {there: source for source, there in ROOT_PAGES.items()}
    return sources.get(address, f"docs/{address}")


def address_of(source: str) -> str | None:
    """Address in the site of a path in the repository; None for a file that is not part of it. A missing one keeps its.

    mkdocs then names it in a warning, which ``--strict`` makes an error.
    """
    if source in ROOT_PAGES:
        return ROOT_PAGES[source]
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    return source if source.startswith(f"{PICTURES}/") or not (ROOT / source).exists() else None
