"""The comparison of pruning methods: it reaches the same operations with each, and goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import frontier
from benchmarks.frontier import Cell, Frontier, FrontierOptions, lowest_that_fits
from models.yolo import DetectionModel
from prune_tools.opening import load_model
from utils.checkpoint import save_checkpoint
from utils.commands.options import build
from utils.errors import InputError
from utils.model_info import count_parameters, gflops
from utils.storage.files import ROOT, read_yaml


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A small network with gammas that differ."""
    torch.manual_seed(0)
    model = DetectionModel({**read_yaml(ROOT / "models/yolov5n_mask.yaml"), "width_multiple": 0.25})
    model.names = ["disc", "square"]
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.1, 1.0)
    path = tmp_path_factory.mktemp("frontier") / "model.pt"
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, path)
    return path


def options(trained: Path, tiny_dataset: Path, folder: Path, **changes) -> FrontierOptions:
    common = {
        "base": str(trained), "sparse": str(trained), "data": str(tiny_dataset), "imgsz": 64, "batch_size": 4,
        "workers": 0, "device": "cpu", "epochs": 1, "flops": [0.6], "folder": str(folder),
    }  # fmt: skip
    return build(FrontierOptions, **(common | changes))


def test_the_lowest_removal_that_fits():
    assert lowest_that_fits(lambda removed: 1 - removed**2, 0.75, highest=0.9) == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(InputError, match=r"removing 50% .* keeps 75%"):
        lowest_that_fits(lambda removed: 1 - removed**2, 0.3, highest=0.5)


@pytest.mark.slow
def test_each_method_reaches_the_operations(trained, tiny_dataset, tmp_path):
    run = Frontier(options(trained, tiny_dataset, tmp_path))
    whole = gflops(load_model(trained)[0])
    for cutter in (run._original, run._ours):
        share = gflops(load_model(cutter(0.6, cutter.__name__))[0]) / whole
        assert 0.55 < share <= 0.6


@pytest.mark.slow
def test_torch_pruning_gives_files_that_we_read(trained, tiny_dataset, tmp_path):
    pytest.importorskip("torch_pruning")
    model, _ = load_model(Frontier(options(trained, tiny_dataset, tmp_path))._torch_pruning(0.6, "theirs"))
    rebuilt = DetectionModel(model.yaml)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in rebuilt.state_dict().items()}
    assert gflops(model) / gflops(load_model(trained)[0]) <= 0.6


@pytest.mark.slow
def test_finished_cells_are_kept(trained, tiny_dataset, tmp_path, monkeypatch):
    measured = []

    def cell(_: Frontier, method: str, share: float) -> Cell:
        measured.append((method, share))
        return Cell(method, share, 100, 0.5, 0.1, 0.05, 0.3, 0.2, {"torch": 2.0}, {"torch": 4.0})

    monkeypatch.setattr(Frontier, "_cell", cell)
    monkeypatch.setattr(Frontier, "base_accuracy", (0.4, 0.25))
    first = options(trained, tiny_dataset, tmp_path, methods=["ours"])
    folder = frontier.main(first)
    frontier.main(options(trained, tiny_dataset, tmp_path, methods=["ours", "original"]))
    assert measured == [("ours", 0.6), ("original", 0.6)]
    table = (folder / "frontier.md").read_text(encoding="utf-8")
    assert "| -40%       | ours     | 100    | 0.50   | 0.100 / 0.050 | 0.300 / 0.200 | 2.0 (0.50)" in table
    assert "0.400 / 0.250" in table and (folder / "frontier.png").stat().st_size
    with pytest.raises(InputError, match="choose another --folder"):
        Frontier(options(trained, tiny_dataset, tmp_path, epochs=2))


@pytest.mark.slow
def test_what_cannot_be_reached_says_so(trained, tiny_dataset, tmp_path):
    cells = Frontier(options(trained, tiny_dataset, tmp_path, methods=["original"], flops=[0.05])).run()
    assert "keeps" in cells[0].problem and "not reached" in frontier.as_table(cells, (0.4, 0.2))
    with pytest.raises(InputError, match="--base"):
        FrontierOptions()
    with pytest.raises(InputError, match=r"gone\.pt"):
        Frontier(options(trained, tiny_dataset, tmp_path, base="gone.pt"))


@pytest.mark.slow
def test_a_cell_is_cut_trained_judged_and_timed(trained, tiny_dataset, tmp_path):
    run = Frontier(options(trained, tiny_dataset, tmp_path, methods=["ours"]))
    cell = run.run()[0]
    assert not cell.problem and 0 < cell.parameters < count_parameters(load_model(trained)[0])
    assert None not in (cell.pruned_map50, cell.map50, cell.map) and cell.map50 >= 0
    assert cell.milliseconds["torch"] > 0 and cell.base_milliseconds["torch"] > 0
    best = tmp_path / "ours-0.6-finetuned/weights/best.pt"
    made = best.stat().st_mtime_ns
    run.cells.clear()
    assert run._train(None, None, "ours-0.6-finetuned") == best and best.stat().st_mtime_ns == made  # it is finished
