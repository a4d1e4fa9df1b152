"""A few of the random inputs of ``python -m tests.fuzz``: none may end in a traceback or in several lines."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.trials import TRIALS, silence, trial
from utils.errors import InputError

COUNTS = {"models": 40, "data": 150, "commands": 60}


@pytest.mark.parametrize("kind", TRIALS)
def test_random_inputs_are_refused_in_one_line(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kinds = set()
    with silence():
        for number in range(COUNTS[kind]):
            text, outcome = TRIALS[kind](random.Random(f"test {number}"), tmp_path)
            assert outcome.kind in ("fine", "refused", "usage"), f"{text!r}\n{outcome.text}"
            kinds.add(outcome.kind)
    assert "refused" in kinds


def test_a_trial_tells_a_traceback_and_a_bad_message():
    def fail(error):
        raise error

    assert trial(lambda: None).kind == "fine"
    assert trial(lambda: fail(KeyError("x"))).kind == "traceback"
    assert trial(lambda: fail(InputError("one line"))).kind == "refused"
    assert trial(lambda: fail(InputError("two\nlines"))).kind == "bad message"
    assert trial(lambda: fail(SystemExit(2))).kind == "usage"
