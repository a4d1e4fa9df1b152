"""Freed memory is kept for the next batch, unless the user has settings of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from utils.commands.allocator import USERS_CHOICES
from utils.storage.files import ROOT

# Counts the pages that the system has to provide for blocks of 64 MB, one freed before the next.
PROBE = """
import resource, sys
from utils.commands.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
import numpy as np
np.full(2**26, 1, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    np.full(2**26, 1, np.uint8)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def probe(way: str, **environment: str) -> tuple[str, int]:
    """Tell whether memory is kept, and the pages provided."""
    clean = {name: value for name, value in os.environ.items() if name not in USERS_CHOICES}
    done = subprocess.run([sys.executable, "-c", PROBE, way], cwd=ROOT, capture_output=True, text=True, check=True,
                          env={**clean, **environment})  # fmt: skip
    kept, pages = done.stdout.split()
    return kept, int(pages)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_blocks_are_used_again():
    kept, pages = probe("keep")
    _, usual = probe("leave")
    assert kept == "True" and usual >= 8 and pages < usual / 4


def test_the_users_settings_stay():
    assert probe("keep", MALLOC_TRIM_THRESHOLD_="100000")[0] == "False"
