"""Pictures drawn by other processes: the same files, failures named, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from utils.drawing import background
from utils.drawing.background import BackgroundDrawing
from utils.drawing.charts import plot_confusion_matrix, plot_mc_curve
from utils.drawing.pictures import plot_images
from utils.storage.files import ROOT


def pictures(folder: Path) -> dict[Path, partial]:
    """Three pictures to draw, by file."""
    grid, curves = np.linspace(0, 1, 50), np.linspace(1, 0, 50)[None]
    images, targets = np.full((2, 3, 32, 32), 90, dtype=np.uint8), np.array([[0, 1, 0.5, 0.5, 0.4, 0.4]])
    files = [folder / name for name in ("curve.png", "matrix.png", "images.jpg")]
    draw = [
        partial(plot_mc_curve, grid, curves, files[0], ["disc"]),
        partial(plot_confusion_matrix, np.eye(2), ["disc"], files[1]),
        partial(plot_images, images, targets, ["a.jpg", "b.jpg"], files[2]),
    ]
    return dict(zip(files, draw, strict=True))


def draw_all(folder: Path, processes: int) -> dict[str, bytes]:
    with BackgroundDrawing(processes) as draw:
        for file, picture in pictures(folder).items():
            draw(file, picture)
        draw.finish()
        assert len(draw._started) == min(processes, 3)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.slow
def test_another_process_draws_the_same_files(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    drawn = draw_all(here, 0)
    assert len(drawn) == 3 and drawn == draw_all(there, 2)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 1])
def test_what_fails_is_named_and_the_others_are_drawn(processes, tmp_path, heard):
    draws = pictures(tmp_path)
    lost = tmp_path / "nowhere/curve.png"
    with BackgroundDrawing(processes) as draw:
        draw(lost, partial(plot_mc_curve, np.zeros(3), np.zeros((1, 3)), lost))
        draw(*list(draws.items())[1])
        draw.finish()
    (warning,) = [record.getMessage() for record in heard.records if record.levelname == "WARNING"]
    assert warning.startswith(f"{lost} could not be drawn: FileNotFoundError")
    assert (tmp_path / "matrix.png").is_file()


def warnings(heard) -> list[str]:
    return [record.getMessage() for record in heard.records if record.levelname == "WARNING"]


@pytest.mark.slow
def test_a_process_that_dies_is_named_and_the_next_picture_gets_another(tmp_path, heard):
    file, picture = next(iter(pictures(tmp_path).items()))
    with BackgroundDrawing(1) as draw:
        draw(tmp_path / "never.png", partial(os._exit, 3))
        draw(file, picture)
        draw.finish()
    (told,) = warnings(heard)
    assert told.startswith(f"{tmp_path / 'never.png'} could not be drawn") and "has ended (exit code 3)" in told
    assert file.is_file()


# It takes what it is sent, or sending would fail where it ends sooner
GARBAGE = "import os, sys; sys.stdout.write('ready\\n{}'); sys.stdout.flush(); os.close(1); sys.stdin.read()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (None, "could not be started"),
        ("raise SystemExit(7)", r"ended at its start (exit code 7)"),
        (GARBAGE.format("?"), "is garbage (UnpicklingError"),
        (GARBAGE.format("X...."), "is garbage (UnpicklingError"),
        (GARBAGE.format("N."), "is garbage (a NoneType"),
    ],
    ids=["no program", "failing", "no pickle", "cut off", "no text"],
)
def test_this_process_draws_where_the_other_is_of_no_use(start, reason, tmp_path, heard, monkeypatch):
    if start is None:
        monkeypatch.setattr("utils.drawing.background.sys.executable", str(tmp_path / "nowhere"))
    else:
        monkeypatch.setattr("utils.drawing.background.START", start)
    file, picture = next(iter(pictures(tmp_path).items()))
    with BackgroundDrawing(1) as draw:
        draw(file, picture)
        draw.finish()
    (told,) = warnings(heard)
    assert told.startswith(f"{file} is drawn by this process") and reason in told
    assert file.is_file()


def test_what_cannot_be_sent_is_drawn_here(tmp_path, heard):
    with BackgroundDrawing(1) as draw:
        draw(tmp_path / "here.txt", lambda: (tmp_path / "here.txt").write_text("drawn"))
        draw.finish()
    assert (tmp_path / "here.txt").read_text() == "drawn" and "cannot be sent" in warnings(heard)[0]


@pytest.mark.slow
def test_what_a_library_prints_is_no_answer(tmp_path, heard):
    with BackgroundDrawing(1) as draw:
        draw(tmp_path / "nothing.png", partial(print, "drawing ..."))
        draw.finish()
    assert not [record for record in heard.records if record.levelname == "WARNING"]


@pytest.mark.slow
def test_an_error_in_between_ends_the_processes(tmp_path):
    file, picture = next(iter(pictures(tmp_path).items()))
    with pytest.raises(KeyboardInterrupt), BackgroundDrawing(1) as draw:
        draw(file, picture)
        draw(file, picture)
        raise KeyboardInterrupt
    assert all(process.exit_code is not None for process in draw._started)
    assert not list(tmp_path.glob(".*"))  # what they were drawing


def test_the_other_process_loads_no_torch():
    code = "import sys, utils.drawing.worker, utils.drawing.pictures; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_processes_started_ahead_draw_and_all_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(background, "usable_cores", lambda: 2)
    background.start_ahead()
    ahead = list(background._ahead)
    assert len(ahead) == 2
    ((file, picture), *_) = pictures(tmp_path).items()
    with BackgroundDrawing() as draw:
        draw(file, picture)
        draw.finish()
        assert file.is_file() and len(draw._started) == 1 and draw._started[0] in ahead
    assert not background._ahead and all(process.exit_code is not None for process in ahead)
    monkeypatch.setattr(background, "usable_cores", lambda: 1)
    background.start_ahead()
    assert not background._ahead
