"""benchmarks/latency.py: what a table says, which files run where, and what is not possible."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import latency, latency_table
from tests.colour_detector import save_colour_detector
from utils.errors import InputError
from utils.storage.files import ROOT


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """The checkpoint of the detector that finds discs and squares by their colours."""
    return str(save_colour_detector(tmp_path_factory.mktemp("latency") / "colour.pt"))


def test_times_are_per_image_and_ratios_turn_by_turn():
    cells = [latency.Cell(name, "torch", 64, 2, 1) for name in ("first", "broken", "second")]
    cells[1].note = "its library is missing | really"
    latency._fill_in_times(cells, {"0": [0.2, 0.4, 0.8], "2": [0.1, 0.2, 0.4], "pause 0": [9, 9, 9]})
    assert (cells[0].median, cells[0].ratio) == (200, 1) and (cells[2].median, cells[2].ratio) == (100, 0.5)
    assert cells[1].median is None
    table = latency.as_table(cells).splitlines()
    assert len(table) == 5 and table[0].count("|") == table[3].count("|") == table[4].count("|")
    assert "its library is missing / really" in table[3]
    assert "| first | torch | 64 | 2 | 1 | 200.00 (100.00-400.00) | 1.00 |" in table[2]


@pytest.mark.slow
def test_every_line_is_measured_or_says_why_not(weights, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("export.is_installed", lambda name: name != "pnnx")
    options = latency.LatencyOptions(
        [weights], ["torch", "torchscript", "ncnn"], imgsz=[64, 96], threads=[1], repetitions=2, data=str(tiny_dataset),
        project=str(tmp_path),
    )  # fmt: skip
    cells = latency.main(options)
    assert [(cell.runtime, cell.imgsz) for cell in cells] == [
        (runtime, size) for size in (64, 96) for runtime in ("torch", "torchscript", "ncnn")
    ]
    for cell in cells:
        if cell.runtime == "ncnn":
            assert cell.median is None and "needs packages that are not installed: pip install pnnx" in cell.note
        else:
            assert cell.low <= cell.median <= cell.high and cell.file_mib > 0 and 0 <= cell.map <= cell.map50 <= 1
    assert cells[0].ratio == 1
    folder = tmp_path / "exp"
    with open(folder / "latency.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["runtime"] for row in rows] == [cell.runtime for cell in cells]
    assert float(rows[0]["median"]) == cells[0].median and rows[2]["note"] == cells[2].note
    assert {path.name for path in folder.iterdir()} == {"latency.md", "latency.csv", "latency.png"}


@pytest.fixture(scope="module")
def exported(weights, tiny_dataset, tmp_path_factory):
    """A function (format, flags) -> an export for 64 pixels in a folder of its own."""
    import export

    def make(argument: str, **flags) -> str:
        copy = tmp_path_factory.mktemp("exported") / "colour.pt"
        copy.write_bytes(Path(weights).read_bytes())
        (path,) = export.run(weights=str(copy), include=[argument], imgsz=64, data=str(tiny_dataset), **flags)
        return str(path)

    return make


@pytest.mark.slow
def test_an_exported_file_runs_in_its_own_runtime(exported):
    path = exported("torchscript")
    options = latency.LatencyOptions([path], imgsz=[64, 96], threads=[1], repetitions=1, memory=True)
    right, wrong = latency.measure(options)
    assert right.runtime == "torchscript" and right.median > 0 and right.memory_mib > 50
    assert wrong.median is None and "takes images of (64, 64), got (96, 96)" in wrong.note


@pytest.mark.slow
def test_files_with_nms_and_in_int8(exported, tiny_dataset):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    files = [exported("onnx", nms=True), exported("onnx", int8=True, calibration_images=2)]
    suppressed, quantized = latency.measure(
        latency.LatencyOptions(files, imgsz=[64], threads=[1], repetitions=1, data=str(tiny_dataset))
    )
    assert suppressed.median > 0 and suppressed.map is None and "no mAP: it applies NMS itself" in suppressed.note
    assert suppressed.note in latency.as_table([suppressed, quantized])
    assert (suppressed.runtime, quantized.runtime) == ("onnxruntime", "onnxruntime-int8") and quantized.map > 0


def test_what_does_not_run_here_is_a_line_among_the_others(weights, tmp_path, monkeypatch):
    engine = tmp_path / "a.engine"
    engine.write_bytes(b"an engine")
    monkeypatch.setattr("export.is_installed", lambda name: True)
    options = latency.LatencyOptions(
        [str(engine), weights], ["torch", "tensorrt"], [60, 64], threads=[1], repetitions=1
    )
    assert options.imgsz == [64]  # rounded, and measured once
    there, checkpoint, made = latency.measure(options)
    assert there.runtime == "tensorrt" and "a.engine needs an NVIDIA GPU" in there.note
    assert checkpoint.median > 0 and "--include engine has to run on the GPU" in made.note
    (line,) = latency.measure(latency.LatencyOptions([weights], ["torch"], [64], threads=[1], half=True))
    assert "half precision needs a GPU" in line.note
    monkeypatch.setattr(latency, "runner_of", lambda backend: (_ for _ in ()).throw(RuntimeError("no\nmemory")))
    (line,) = latency.measure(latency.LatencyOptions([weights], ["torch"], [64], threads=[1]))
    assert line.note == "failed: no memory"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(weights):
    with pytest.raises(InputError, match="--device 0 is not available"):
        latency.measure(latency.LatencyOptions([weights], device="0"))


def test_a_process_that_dies_without_a_word(weights, monkeypatch):
    monkeypatch.setattr(latency, "MEMORY_PROBE", "import os; os._exit(9)")
    (line,) = latency.measure(latency.LatencyOptions([weights], ["torch"], [64], threads=[1], memory=True))
    assert line.note.endswith("failed in a separate process: exit status 9")


def test_files_of_one_name_are_told_apart():
    cells = [latency.Cell(name, "torch", 64, 1, 1) for name in ("a/best.pt", "b/best.pt", "c/last.pt")]
    assert latency_table.short_names(cells) == {
        "a/best.pt": "a/best.pt",
        "b/best.pt": "b/best.pt",
        "c/last.pt": "last.pt",
    }
    assert "| b/best.pt | torch |" in latency.as_table(cells)


def test_it_runs_as_a_module(weights, tmp_path):
    command = [sys.executable, "-m", "benchmarks.latency", "--weights", weights, "--runtimes", "torch", "--imgsz", "64"]
    command += ["--threads", "1", "--repetitions", "1", "--project", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "| colour.pt | torch | 64 | 1 | 1 |" in run.stdout + run.stderr
    assert (tmp_path / "exp/latency.md").is_file()


@pytest.mark.parametrize(
    "words, message",
    [
        ({"weights": []}, "--weights is missing"),
        ({"weights": ["nowhere.pt"]}, "no such file: nowhere.pt"),
        ({"runtimes": ["banana"]}, "--runtimes banana is unknown: expected some of torch"),
        ({"threads": [0]}, "--threads takes positive numbers"),
        ({"repetitions": 0}, "--repetitions must be at least 1"),
    ],
)
def test_what_cannot_be_measured(weights, words, message):
    with pytest.raises(InputError, match=message):
        latency.LatencyOptions(**({"weights": [weights]} | words))
