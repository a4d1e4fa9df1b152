"""The archive of a checkpoint: checksums, what is said twice, what lies beside it, bytes that were changed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from models.loading import load_checkpoint
from tests.torch_damage import KINDS, count
from tests.torch_file_tools import refusal, rewrite, tiny_model


@pytest.fixture
def good(tmp_path) -> Path:
    """A checkpoint whose entries lie in the folder 'good'."""
    torch.save({"model": tiny_model().half(), "epoch": 3}, tmp_path / "good.pt")
    return tmp_path / "good.pt"


def test_compressed_entries(good):
    rewrite(good, lambda _, content: content, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(good)


def test_what_lies_beside_the_entries(good):
    content = good.read_bytes()
    for damaged in (content + b"x", b"x" + content, content[:-2] + b"\x01\x00x", content + content):
        good.write_bytes(damaged)
        refusal(good)
    rewritten = bytearray(content)
    start = rewritten.index(b"PK\x03\x04", 1)
    good.write_bytes(bytes(rewritten[:start] + b"hidden" + rewritten[start:]))
    refusal(good)


def test_entries_that_do_not_belong(good, tmp_path):
    content = good.read_bytes()
    for entry, payload in (("good/data/999", bytes(4)), ("good/code.py", b"import os"), ("good/.note", bytes(5000)),
                           ("other/version", b"3"), ("good/data.pkl", b"N."), ("good/../x", b""),
                           ("good/./data.pkl", b"N."), ("good/.//x", b"")):  # fmt: skip
        good.write_bytes(content)
        with zipfile.ZipFile(good, "a") as archive:
            archive.writestr(entry, payload)
        refusal(good)
    good.write_bytes(content)
    rewrite(good, lambda entry, payload: None if entry == "data/3" else payload)
    assert "'data/3' is missing" in refusal(good)
    good.write_bytes(content)
    rewrite(good, lambda entry, payload: payload[:-4] if entry == "data/3" else payload)
    assert "another size" in refusal(good)


@pytest.mark.parametrize("offset", [6, 8, 14, 18, 26], ids=["flags", "method", "checksum", "size", "name"])
def test_headers_that_contradict_the_index(good, offset):
    rewrite(good, lambda _, content: content)  # by zipfile, which writes the sizes into both
    content = bytearray(good.read_bytes())
    content[content.index(b"PK\x03\x04", 1) + offset] ^= 1
    good.write_bytes(bytes(content))
    refusal(good)


def test_sizes_in_64_bits_that_contradict_the_index(good):
    with zipfile.ZipFile(good) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(good, "w") as archive:
        for name, payload in entries.items():
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(payload)
        starts = [entry.header_offset for entry in archive.infolist()]
    content = bytearray(good.read_bytes())
    for start in starts:  # "see the 64 bits", which Python 3.10 leaves out
        content[start + 18 : start + 26] = b"\xff" * 8
    good.write_bytes(bytes(content))
    load_checkpoint(good)
    content[content.index(b"\x01\x00\x10\x00") + 4] ^= 1
    good.write_bytes(bytes(content))
    assert "contradicts the header" in refusal(good)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_every_kind(kind):
    """``python tests/torch_damage.py`` does more of the same."""
    found = count(kind, 25)
    allowed = {"refused", "same"} | ({"other"} if "changed" in kind else set())
    assert found.keys() <= allowed
    assert found["refused"] > 5
