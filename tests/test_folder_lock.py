"""Runs that start together get folders of their own, or are told who has theirs."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.storage import folder_lock
from utils.storage.files import ROOT, increment_path
from utils.storage.folder_lock import FolderLock, claimed_folder, held_folder

CLAIM = """
import sys, time
from utils.storage.folder_lock import claimed_folder
sys.stdin.readline()
with claimed_folder(sys.argv[1], exist_ok=sys.argv[2] == "exist_ok") as folder:
    (folder / "result").touch()
    print(folder, flush=True)
    sys.stdin.readline()
"""


class Claimer:
    """A process that claims a folder when it is told to, and lets go when it is told to."""

    def __init__(self, folder: Path, exist_ok: bool = False) -> None:
        command = [sys.executable, "-c", CLAIM, str(folder), "exist_ok" if exist_ok else ""]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def tell(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def folder(self) -> str:
        return self.process.stdout.readline().strip()

    def end(self) -> str:
        return self.process.communicate()[1]


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    claimers = [Claimer(tmp_path / "exp") for _ in range(4)]
    for claimer in claimers:
        claimer.tell()
    folders = {claimer.folder() for claimer in claimers}
    for claimer in claimers:
        claimer.end()
    assert folders == {str(tmp_path / name) for name in ("exp", "exp2", "exp3", "exp4")}
    assert {path.name for path in (tmp_path / "exp").iterdir()} == {"result"}


def test_a_folder_in_use_is_refused_and_a_dead_process_holds_none(tmp_path):
    first = Claimer(tmp_path / "exp", exist_ok=True)
    first.tell()
    assert first.folder() == str(tmp_path / "exp")
    with pytest.raises(InputError, match=f"in use by process {first.process.pid}") as caught:
        held_folder(tmp_path / "exp").__enter__()
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="in use by"), claimed_folder(tmp_path / "exp", exist_ok=True):
        pass
    first.process.kill()
    first.end()
    with claimed_folder(tmp_path / "exp", exist_ok=True) as folder:
        assert folder == tmp_path / "exp" and (folder / "result").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_does_not_hold_the_folder_of_its_parent(tmp_path):
    read, write = os.pipe()
    with held_folder(tmp_path):
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    with held_folder(tmp_path):
        os.close(write)
        os.waitpid(child, 0)


def test_the_lock_is_taken_once_in_a_process_too(tmp_path):
    with held_folder(tmp_path):
        with pytest.raises(InputError, match=f"process {os.getpid()}"), held_folder(tmp_path):
            pass
        assert (tmp_path / folder_lock.LOCK_FILE).exists()
    assert not list(tmp_path.iterdir())
    with held_folder(tmp_path):
        folder_lock.release_all()
        assert not list(tmp_path.iterdir())


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    lock, taken = folder_lock._lock, []

    def remove_first(descriptor):
        lock(descriptor)
        if not taken:
            (tmp_path / folder_lock.LOCK_FILE).unlink()
        taken.append(descriptor)

    monkeypatch.setattr(folder_lock, "_lock", remove_first)
    with held_folder(tmp_path):
        assert len(taken) == 2
        with pytest.raises(InputError, match="in use"):
            FolderLock(tmp_path).acquire()


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock, "_lock", refuse)
    with claimed_folder(tmp_path / "exp") as folder:
        assert folder.is_dir()


def test_a_run_that_fails_before_it_writes_leaves_no_folder(tmp_path):
    with pytest.raises(KeyError), claimed_folder(tmp_path / "runs/train/exp"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    (tmp_path / "exp").mkdir()
    with pytest.raises(KeyError), claimed_folder(tmp_path / "exp", exist_ok=True):
        raise KeyError
    with pytest.raises(KeyError), claimed_folder(tmp_path / "exp") as folder:
        (folder / "result").touch()
        raise KeyError
    assert {path.name for path in tmp_path.iterdir()} == {"exp", "exp2"}


def test_a_link_to_nothing_is_refused(tmp_path):
    (tmp_path / "exp").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="link to nothing"), claimed_folder(tmp_path / "exp"):
        pass


def test_increment_path_creates_the_folder_that_it_names(tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def another_is_first(path, *arguments, **keywords):
        if path.name == "exp":
            monkeypatch.setattr(Path, "mkdir", mkdir)
            path.mkdir()
        mkdir(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "mkdir", another_is_first)
    found = increment_path(tmp_path / "exp", mkdir=True)
    assert found.name == "exp2" and found.is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGTERM")
def test_the_file_stays_after_a_kill_and_does_no_harm(tmp_path):
    claimer = Claimer(tmp_path / "exp")
    claimer.tell()
    folder = Path(claimer.folder())
    claimer.process.send_signal(signal.SIGKILL)
    claimer.end()
    with held_folder(folder):
        pass
    assert {path.name for path in folder.iterdir()} == {"result"}


@pytest.mark.slow
def test_numbers_have_no_end_and_the_first_free_one_is_taken(tmp_path):
    (tmp_path / "a.jpg").touch()
    for number in range(2, 10_050):
        (tmp_path / f"a{number}.jpg").touch()
    assert increment_path(tmp_path / "a.jpg") == tmp_path / "a10050.jpg"
    (tmp_path / "a77.jpg").unlink()
    assert increment_path(tmp_path / "a.jpg") == tmp_path / "a77.jpg"
    assert increment_path(tmp_path / "a.jpg", sep="_") == tmp_path / "a_2.jpg"


def test_several_may_share_a_folder_that_they_are_content_with(tmp_path):
    keywords = {"exist_ok": True, "shared": True}
    with claimed_folder(tmp_path / "exp", **keywords) as first, claimed_folder(tmp_path / "exp", **keywords) as second:
        assert first == second == tmp_path / "exp" and first.is_dir()
        with claimed_folder(tmp_path / "exp") as other:
            assert other == tmp_path / "exp2"
