"""Limits of style that only go down: branches of a function, and imports inside functions.

What pyproject.toml and this file record is exactly what there is. A change that adds to it fails, and so does one that
takes something away without lowering the record.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from utils.storage.files import ROOT

DEFERRED = "PLC0415"  # ruff's name of imports inside functions; those of banned-module-level-imports do not count
BRANCHES = "C901"
# How many there are in the files of each folder. The one line by which a command starts its work is among them.
DEFERRED_IMPORTS: dict[str, int] = {
    ".": 15,
    "benchmarks": 1,
    "benchmarks/frontier": 1,
    "data/scripts": 3,
    "models": 5,
    "models/backends": 1,
    "models/exporters": 2,
    "prune_tools": 9,
    "utils": 8,
    "utils/commands": 2,
    "utils/detection": 1,
    "utils/drawing": 7,
    "utils/geometry": 2,
    "utils/storage": 6,
    "utils/tracking": 1,
    "yolov5_prune": 1,
}


def settings() -> dict[str, Any]:
    """Return ruff's settings in pyproject.toml."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11 and newer
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]


def findings(rule: str, **changes: Any) -> list[str]:
    """Return the file of each finding of a rule outside of the tests, with pyproject.toml's settings but for these."""
    setting = [f"--config=lint.{name}={json.dumps(value)}" for name, value in changes.items()]
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--no-cache",
        "--exit-zero",
        "--output-format=json",
        "--select",
        rule,
    ]
    done = subprocess.run([*command, *setting, "."], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [Path(entry["filename"]).relative_to(ROOT).as_posix() for entry in json.loads(done.stdout)]
    return [name for name in names if not name.startswith("tests/")]


def differences(counted: dict[str, int], recorded: dict[str, int]) -> list[str]:
    """Return a line for each folder where there are more or fewer deferred imports than recorded."""
    lines = []
    for folder in sorted(counted.keys() | recorded.keys()):
        count, limit = counted.get(folder, 0), recorded.get(folder, 0)
        if count > limit:
            lines.append(
                f"{folder}: {count} imports inside functions, at most {limit}: move them to the top of the file"
            )
        elif count < limit:
            lines.append(
                f"{folder}: {count} imports inside functions, recorded are {limit}: lower the record to {count}"
            )
    return lines


def test_both_directions_are_noticed():
    assert differences({"a": 2, "b": 1}, {"a": 2, "b": 1}) == []
    lines = differences({"a": 3, "b": 1}, {"a": 2, "b": 2, "c": 1})
    assert [line.split(":")[0] for line in lines] == ["a", "b", "c"]
    assert "at most 2" in lines[0] and "lower the record to 1" in lines[1] and "lower the record to 0" in lines[2]


def test_imports_inside_functions_only_become_fewer():
    files = findings(DEFERRED, **{"per-file-ignores": {}})
    counted = Counter(Path(name).parent.as_posix() for name in files)
    lines = differences(counted, DEFERRED_IMPORTS)
    assert not lines, "\n".join(lines)


def test_files_that_may_have_them_do():
    ignored = settings()["per-file-ignores"]
    listed = {pattern for pattern, rules in ignored.items() if DEFERRED in rules and pattern != "tests/**"}
    have = set(findings(DEFERRED, **{"per-file-ignores": {}}))
    assert listed == have, f"take out of per-file-ignores: {sorted(listed - have)}; new: {sorted(have - listed)}"


def test_no_function_has_fewer_branches_than_allowed():
    limit = settings()["mccabe"]["max-complexity"]
    assert BRANCHES in settings()["select"] and DEFERRED in settings()["select"]
    assert findings(BRANCHES) == []
    assert findings(BRANCHES, **{"mccabe.max-complexity": limit - 1}), f"lower max-complexity below {limit}"
