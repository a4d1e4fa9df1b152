"""Reading ahead and writing behind a loop: order, limits, errors, and no thread that stays."""

from __future__ import annotations

import threading
import time

import pytest

from utils.detection.threads import ReadAhead, WriteBehind


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_items_come_in_order_and_not_too_early():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    with ReadAhead(items(), 3) as ahead:
        got = []
        for number in ahead:
            time.sleep(0.001)
            got.append(number)
            assert len(made) - len(got) <= 4  # three that wait and one in hand
    assert got == list(range(20))


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("broken")

    got = []
    with pytest.raises(ValueError, match="broken"), ReadAhead(items(), 5) as ahead:
        for item in ahead:
            got.append(item)
    assert got == [1]


def test_leaving_early_stops_the_reading():
    made = []
    with ReadAhead((made.append(number) or number for number in range(10**6)), 2) as ahead:
        assert next(iter(ahead)) == 0
    count = len(made)
    time.sleep(0.02)
    assert len(made) == count < 100


def test_calls_are_done_in_order_before_the_block_is_left():
    done = []
    with WriteBehind(lambda number: (time.sleep(0.001), done.append(number)), 4) as write:
        for number in range(20):
            write(number)
            assert number - len(done) <= 6
    assert done == list(range(20))


def test_an_error_of_a_call_is_raised_and_nothing_more_is_called():
    done = []

    def action(number: int) -> None:
        if number == 2:
            raise OSError("the disk is full")
        done.append(number)

    with pytest.raises(OSError, match="the disk is full"), WriteBehind(action, 2) as write:
        for number in range(1000):
            write(number)
    assert done == [0, 1]


def test_an_error_of_the_loop_waits_for_what_was_given():
    done = []
    with (
        pytest.raises(KeyboardInterrupt),
        WriteBehind(lambda number: (time.sleep(0.005), done.append(number)), 9) as write,
    ):
        for number in range(5):
            write(number)
        raise KeyboardInterrupt
    assert done == [0, 1, 2, 3, 4]
