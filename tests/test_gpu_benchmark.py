"""benchmarks/gpu.py: what it makes of notes, and its section of the page. Its measurements need a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import checkouts, gpu, gpu_probe, training, validation
from utils.errors import InputError
from utils.storage.files import ROOT


def test_the_probe_notes_the_steps_of_any_script(tmp_path):
    (tmp_path / "job.py").write_text(
        "import sys, torch\nfrom helper import WORD\n"
        "weight = torch.nn.Parameter(torch.zeros(1))\noptimizer = torch.optim.SGD([weight], lr=1.0)\n"
        "for _ in range(int(sys.argv[2])):\n    optimizer.step()\nprint(WORD, sys.argv[0])\n"
    )
    (tmp_path / "helper.py").write_text("WORD = 'found'\n")
    command = [
        sys.executable,
        ROOT / "benchmarks/gpu_probe.py",
        "notes.json",
        "plain",
        tmp_path,
        "job.py",
        "--count",
        "3",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["found", "job.py"]
    assert len(json.loads((tmp_path / "notes.json").read_text())["steps"]) == 3


def test_time_in_which_kernels_overlap_counts_once():
    assert gpu_probe.joined([(0, 2), (1, 3), (5, 6), (5, 5.5)]) == 4
    assert gpu_probe.joined([]) == 0


def test_medians_over_the_epochs_without_the_first_ones():
    steps = [epoch * 10 + number for epoch in range(4) for number in range(4)]  # 0 1 2 3, 10 11 12 13, ...
    milliseconds = [7.0 if number % 4 < 2 else 100.0 for number in range(15)]  # that to the smaller batch, and the gap
    figures = checkouts.training_figures(steps, milliseconds, [5, 15, 25, 35.5], epochs=4)
    assert figures == {"step": 7.0, "epoch": 10.25, "gap": 5.0, "validation": 2.25}


def test_rows_with_and_without_another_checkout():
    ours = {"step": 10.0, "busy": 0.9, "detection": 300.0}
    text = gpu.table("yolov5n", 320, ours, {"step": 60.0, "busy": 0.3, "detection": 100.0})
    assert "| training step, ms | 10 | 60 | 6.00 |" in text and "| detection, images/s | 300 | 100 | 3.00 |" in text
    assert "| 0.9 | 0.3 | 3.00 |" in text and "epoch" not in text
    assert "| training step, ms | 10 | | |" in gpu.table("yolov5n", 320, ours, {})


def test_the_section_replaces_its_own_only(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n## Training\n\nkept\n\n## On a GPU\n\nold\n\n## Last\n\nkept too\n")
    gpu.write_section("## On a GPU\n\nnew\n", page)
    text = page.read_text()
    assert "old" not in text and text.count("## On a GPU") == 1 and "new" in text
    assert "## Training\n\nkept" in text and "## Last\n\nkept too" in text


def test_without_a_gpu_it_says_so():
    with pytest.raises(InputError, match="measures on an NVIDIA GPU, and torch sees none here"):
        gpu.main(gpu.GpuOptions())


@pytest.mark.parametrize("what", ["training", "validation"])
def test_another_checkout_is_measured_on_a_cpu_too(tiny_dataset, tiny_cfg, tmp_path, monkeypatch, what):
    """Both commands get the same flags; here both checkouts are this one, and what they would do is noted only."""
    started = []

    def start(checkout, script, arguments, folder):
        started.append((checkout, script, [str(word) for word in arguments]))
        return {"steps": [0.0, 1.0, 3.0, 4.0]}

    monkeypatch.setattr(checkouts, "start", start)
    if what == "training":
        options = training.TrainingOptions(str(tiny_dataset), str(tiny_cfg), 64, 4, repetitions=2, beside=str(tmp_path))
        figure = training._beside(options, tmp_path)
        assert figure.ours == figure.plain == 4.0  # images of a step, in the median of one second
    else:
        options = validation.ValidationOptions(str(tiny_dataset), "a.pt", 64, 4, beside=str(tmp_path))
        options.command_repetitions = 1
        figure = validation._beside(options, tmp_path, 10)
    assert figure.note == f"{'train' if what == 'training' else 'val'}.py of {tmp_path.name}"
    (ours, theirs) = started[:2]
    assert ours[0] == ROOT and theirs[0] == tmp_path and ours[1] == theirs[1]
    assert [word for word in ours[2] if word != "ours0"] == [word for word in theirs[2] if word != "beside0"]
