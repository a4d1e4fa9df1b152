"""Signals end a command within a batch or within seconds, with their exit code, one line, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from utils.commands import interrupts
from utils.commands.interrupts import Interrupted, advising, deferred, obey, obeying
from utils.storage.files import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")

COMMAND = """
import ctypes, gc, os, signal, subprocess, sys, threading, time
from pathlib import Path
from utils.commands import interrupts
from utils.commands.cli import run_command
from utils.storage.files import atomic_path

interrupts.PATIENCE_SECONDS = 2.0


def ready():
    print("ready", flush=True)


def sleeping():
    with interrupts.advising(lambda: "continue with --resume x"), atomic_path("file") as draft:
        draft.touch()
        ready()
        time.sleep(60)


def batches():
    for number in interrupts.obeying(range(1000)):
        with open("batches", "a") as file:
            file.write("begun\\n")
        if not number:
            ready()
        time.sleep(0.3)
        with open("batches", "a") as file:
            file.write("ended\\n")


def in_c():  # never comes back to Python
    ready()
    ctypes.CDLL(None).sleep(60)


def swallowing():
    ready()
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass


def in_child():
    ready()
    interrupts.run_child(["bash", "-c", "sleep 60 & echo $! > child; wait"])


def hanging_end():
    try:
        ready()
        time.sleep(60)
    finally:
        threading.Event().wait()


def waiting_for_a_thread():
    threading.Thread(target=time.sleep, args=(60,)).start()
    ready()
    time.sleep(60)


def a_stream():  # Ctrl-C is its ordinary end
    try:
        ready()
        time.sleep(60)
    except KeyboardInterrupt:
        print("report", flush=True)


def in_a_thread():
    thread = threading.Thread(target=lambda: [time.sleep(0.1) for _ in interrupts.obeying(range(600))], daemon=True)
    thread.start()
    ready()
    while thread.is_alive():
        thread.join(0.1)


run_command(globals()[sys.argv[1]])
"""


def obedient() -> None:
    """Undo what the tests were started with: jobs in the background, and those of nohup, ignore some signals."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def start(folder: Path, way: str, **keywords) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, way], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=obedient, **keywords,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen) -> tuple[int, list[str]]:
    """Return the exit code and the lines of the error output."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors.splitlines()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_exit_codes_and_the_line(tmp_path, name):
    process = start(tmp_path, "sleeping")
    process.send_signal(getattr(signal, name))
    code, lines = finish(process)
    assert code == 128 + getattr(signal, name)
    assert lines == [f"interrupted ({name}): files saved before this moment are complete; continue with --resume x"]
    assert not list(tmp_path.iterdir())


def test_a_batch_is_ended_and_no_other_is_begun(tmp_path):
    process = start(tmp_path, "batches")
    process.terminate()
    assert finish(process)[0] == 143
    assert (tmp_path / "batches").read_text().splitlines() == ["begun", "ended"]


@pytest.mark.parametrize("way", ["in_c", "swallowing", "hanging_end", "waiting_for_a_thread", "in_a_thread"])
def test_the_process_ends_whatever_it_does(tmp_path, way):
    process = start(tmp_path, way)
    process.terminate()
    code, lines = finish(process)
    assert code == 143
    assert len(lines) == 1 and lines[0].startswith("interrupted (SIGTERM)")


def test_a_second_signal_ends_at_once(tmp_path):
    process = start(tmp_path, "swallowing")
    process.terminate()
    time.sleep(interrupts.SAME_REQUEST_SECONDS + 0.3)
    process.terminate()
    assert finish(process)[0] == 143


def test_a_child_ends_with_its_children(tmp_path):
    process = start(tmp_path, "in_child")
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().strip():
        time.sleep(0.05)
    grandchild = int((tmp_path / "child").read_text())
    process.terminate()
    assert finish(process)[0] == 143
    deadline = time.monotonic() + 10
    while Path(f"/proc/{grandchild}").exists() and "Z" not in Path(f"/proc/{grandchild}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stream_ends_with_ctrl_c_and_is_interrupted_by_others(tmp_path):
    for number, code in ((signal.SIGINT, 0), (signal.SIGTERM, 143)):
        process = start(tmp_path, "a_stream")
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert output == "report\n" and process.returncode == code


def test_an_ignored_signal_stays_ignored(tmp_path):
    command = [sys.executable, "-c", COMMAND, "batches"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),  # nohup
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_whoever_reads_the_output_may_go(tmp_path):
    script = "from utils.commands.cli import run_command\nrun_command(lambda: [print('x' * 99) for _ in range(9999)])"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141  # as if SIGPIPE had ended it


def test_handlers_are_not_installed_outside_the_main_thread():
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupts.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_loops_and_blocks(monkeypatch):
    monkeypatch.setattr(interrupts, "_requested", 0)
    done = []
    with pytest.raises(Interrupted):
        for number in obeying(range(3)):
            interrupts._note(signal.SIGTERM, None)  # noted, not raised
            done.append(number)
    assert done == [0] and not interrupts._deferrals
    with pytest.raises(Interrupted):
        obey()
    monkeypatch.setattr(interrupts, "_requested", 0)
    with pytest.raises(Interrupted):
        interrupts._note(signal.SIGTERM, None)
    with deferred():
        interrupts._note(signal.SIGTERM, None)


def test_the_outermost_advice_counts():
    with pytest.raises(ValueError) as caught, advising(lambda: "outer"), advising(lambda: "inner"):
        raise ValueError
    assert caught.value.advice == "outer"
    assert not interrupts._advice
