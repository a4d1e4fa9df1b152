"""benchmarks/latency.py: what a table says, which files run where, and what is not possible."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import latency
from tests.colour_detector import save_colour_detector
from utils.errors import InputError


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


def test_an_exported_file_runs_in_its_own_runtime(weights, tiny_dataset, tmp_path):
    import export

    copy = tmp_path / "copy.pt"
    copy.write_bytes(Path(weights).read_bytes())
    (path,) = export.run(weights=str(copy), include=["torchscript"], imgsz=64, data=str(tiny_dataset))
    options = latency.LatencyOptions([str(path)], imgsz=[64, 96], threads=[1], repetitions=1, memory=True)
    right, wrong = latency.measure(options)
    assert right.runtime == "torchscript" and right.median > 0 and right.memory_mib > 50
    assert wrong.median is None and "takes images of (64, 64), got (96, 96)" in wrong.note


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
