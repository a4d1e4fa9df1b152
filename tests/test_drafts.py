"""Files appear whole under any name; drafts go with the process that wrote them, however it ended."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from utils.storage import drafts
from utils.storage.drafts import draft_path, is_running, remove_abandoned
from utils.storage.files import ROOT, atomic_output, atomic_path, fitting_name

KILLED = """
import os, signal, sys
from utils.storage.files import atomic_output, atomic_path
with atomic_path("best.pt") as draft, atomic_output("model") as folder:
    draft.write_text("half")
    folder.mkdir()
    print(os.getpid(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def dead_process() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["長" * 81 + ".jpg", "a" * 251 + ".txt", "." + "b" * 254, "c" * 255])
def test_every_name_that_the_file_system_takes_can_be_written(tmp_path, name):
    with atomic_path(tmp_path / name) as draft:
        draft.write_text("whole")
        assert len(os.fsencode(draft.name)) < 100  # encrypted folders take 143 bytes
    assert (tmp_path / name).read_text() == "whole"
    assert names(tmp_path) == {name}


def test_drafts_keep_the_suffix(tmp_path):
    assert draft_path(tmp_path / "best.torchscript").suffix == ".torchscript"
    assert draft_path(tmp_path / ("x." + "y" * 200)).suffix == ""


def test_a_failed_write_keeps_the_old_file_and_names_it(tmp_path):
    target = tmp_path / "last.pt"
    target.write_text("old")
    with pytest.raises(OSError) as caught, atomic_path(target) as draft:
        draft.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(target)
    assert target.read_text() == "old" and names(tmp_path) == {"last.pt"}


def test_the_errors_of_other_files_keep_their_names(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "a") as draft:
        draft.write_text((tmp_path / "missing").read_text())
    assert Path(caught.value.filename).name == "missing"


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_that_cannot_be_replaced_is_still_there(tmp_path, monkeypatch, failing):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    replace, calls = os.replace, []

    def fail(*paths):
        calls.append(paths)
        if len(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        replace(*paths)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError), atomic_output(target) as folder:
        folder.mkdir()
    assert names(tmp_path) == {"model"} and names(target) == {"old"}


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_permissions(tmp_path):
    target, previous = tmp_path / "private", os.umask(0o027)
    try:
        with atomic_path(target) as draft:
            draft.touch()
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        for mode in (0o600, 0o444):
            target.chmod(mode)
            with atomic_path(target) as draft:
                draft.touch()
            assert stat.S_IMODE(target.stat().st_mode) == mode
    finally:
        os.umask(previous)


def test_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    events, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), sync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    with atomic_path(tmp_path / "last.pt") as draft:
        draft.touch()
    assert events[:2] == ["sync", "rename"]
    assert events[2:] == (["sync"] if os.name != "nt" else [])  # the folder
    events.clear()
    with atomic_path(tmp_path / "1.txt", sync=False) as draft:
        draft.touch()
    assert events == ["rename"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_synchronise_will_do(tmp_path, monkeypatch, number):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with atomic_path(tmp_path / "file") as draft:
        draft.touch()
    assert names(tmp_path) == {"file"}


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_drafts_of_a_killed_process_are_removed_by_the_next_write(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2 and all(name.startswith(".draft-") for name in names(tmp_path))
    with atomic_path(tmp_path / "other") as draft:
        draft.touch()
    assert names(tmp_path) == {"other"}


def test_only_drafts_of_dead_processes_are_removed(tmp_path, dead_process):
    (tmp_path / "weights").mkdir()
    gone = [
        f".draft-{drafts._system()}-{dead_process}-0123abcd.pt",
        f".F1_curve-{dead_process}-0123abcd.png",
        f".clip-{dead_process}.mp4",
        f"weights/.draft-{drafts._system()}-{dead_process}-0123abcd.pt",
        f"weights/.draft-{drafts._system()}-{os.getpid()}-0123abcd.pt",  # an earlier process had this number
    ]
    kept = [
        f".draft-{drafts._system()}-{os.getppid()}-0123abcd.pt",
        f".draft-000000-{dead_process}-0123abcd.pt",  # of another system, where it may live
        f".best-{os.getppid()}-0123abcd.pt",
        f".notes-{dead_process}.txt",
        ".hidden.pt",
        "best.pt",
    ]
    for name in gone + kept:
        (tmp_path / name).write_text("x")
    mine = draft_path(tmp_path / "mine.png")
    mine.touch()
    remove_abandoned(tmp_path)
    assert names(tmp_path / "weights") == {Path(name).name for name in gone[3:]}
    remove_abandoned(tmp_path, held=True)
    kept.remove(f".best-{os.getppid()}-0123abcd.pt")  # an earlier version's, in a folder that nobody else uses
    assert names(tmp_path) == {*kept, mine.name, "weights"} and not names(tmp_path / "weights")


def test_a_draft_of_another_system_is_removed_after_a_day(tmp_path):
    old = tmp_path / ".draft-000000-1-0123abcd.pt"
    old.touch()
    os.utime(old, (1e9, 1e9))
    remove_abandoned(tmp_path)
    assert not names(tmp_path)


def test_is_running(dead_process):
    assert is_running(os.getpid())
    assert not is_running(dead_process)
    assert not is_running(10**30)


def test_fitting_names(tmp_path, monkeypatch):
    assert fitting_name(tmp_path, "photo", ".jpg") == "photo.jpg"
    assert fitting_name(tmp_path, "a" * 251, ".jpg") == "a" * 251 + ".jpg"
    monkeypatch.setattr(os, "pathconf", lambda folder, name: 143, raising=False)
    shortened = [fitting_name(tmp_path, "長" * 60 + end, "_0001.txt") for end in "ab"]
    assert len(set(shortened)) == 2
    assert all(name.startswith("長" * 20) and name.endswith("_0001.txt") for name in shortened)
    assert all(len(os.fsencode(name)) <= 143 for name in shortened)
