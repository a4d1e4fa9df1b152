"""The choice of tests: which are slow, and which belong to a changed file."""

from __future__ import annotations

import subprocess

import pytest

import train
from prune_tools import prune
from tests.changed import ALWAYS, all_test_files, chosen_for, files_naming
from tests.slow import is_slow
from tests.test_import_rule import project_files
from utils.storage.files import ROOT


def helper() -> None:
    train.main(None)


def through_a_helper() -> list[int]:
    return [helper() or number for number in range(3)]


class Bench:
    """Starts a process in a method."""

    def run(self) -> None:
        subprocess.run(["true"], check=True)


@pytest.mark.parametrize(
    ("function", "slow"),
    [
        (helper, True),
        (through_a_helper, True),
        (lambda: Bench(), True),
        (lambda: prune.run(), True),
        (lambda: prune.PruneOptions(), False),
        (lambda: train.steps_after_training("", None), False),
        (pytest.raises, False),
    ],
)
def test_what_trains_or_starts_a_process_is_slow(function, slow):
    assert is_slow([function]) is slow


@pytest.fixture
def bench() -> Bench:
    """Starts nothing yet."""
    return Bench()


def test_a_fixture_makes_its_tests_slow(bench, request):
    assert request.node.get_closest_marker("slow")


def test_other_tests_are_quick(request):
    assert not request.node.get_closest_marker("slow")


def test_a_changed_file_stands_for_the_tests_that_name_it():
    chosen = chosen_for(["utils/geometry/boxes.py"])
    assert {"tests/test_boxes.py", *ALWAYS} <= chosen and "tests/test_yaml_reader.py" not in chosen
    assert chosen_for(["tests/test_nms.py"]) == {"tests/test_nms.py", *ALWAYS}
    assert "tests/test_folding.py" in chosen_for(["tests/pruning_networks.py"])
    assert "tests/test_evolve.py" in chosen_for(["data/hyps/hyp.scratch-low.yaml"])
    assert chosen_for(["/".join(("tests", "test_deleted.py"))]) == ALWAYS
    assert chosen_for(["tests/conftest.py"]) == set(all_test_files())


@pytest.mark.slow
def test_a_file_that_no_test_names_stands_for_those_of_what_imports_it():
    paths = [path.relative_to(ROOT).as_posix() for path in project_files()]
    alone = [path for path in paths if not files_naming(path)]
    assert alone and [path for path in alone if chosen_for([path]) == ALWAYS] == []
