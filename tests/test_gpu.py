"""Runs tests/gpu where there is an NVIDIA GPU, in a process that sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ALL_GPUS, GPU_OPTION, HIDDEN_GPUS, VISIBLE_GPUS
from utils.storage.files import ROOT


def test_what_needs_a_gpu() -> None:
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        pytest.skip("this machine has no NVIDIA GPU")
    environment = {name: value for name, value in os.environ.items() if name != VISIBLE_GPUS}
    visible = environment.pop(HIDDEN_GPUS, ALL_GPUS)
    if visible != ALL_GPUS:
        environment[VISIBLE_GPUS] = visible
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", GPU_OPTION, "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(
            f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
        )
