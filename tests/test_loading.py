"""Checkpoints of older releases, other NumPy versions and other systems; attempt_load and ensembles."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path, PosixPath

import numpy as np
import pytest
import torch
from torch import nn

from models import common
from models.ensemble import Ensemble
from models.head import Detect
from models.loading import attempt_load, load_checkpoint, modernize, strip_optimizer
from models.yolo import DetectionModel
from utils.checkpoint import save_checkpoint
from utils.errors import CheckpointError, InputError

RELEASES = ["v5.0", "v6.0", "v6.1", "v6.2", "v7.0"]


def tiny_model(nc: int = 2, seed: int = 0, block: str = "C3") -> DetectionModel:
    """A detector of two levels with very few channels."""
    torch.manual_seed(seed)
    config = {
        "nc": nc, "depth_multiple": 0.33, "width_multiple": 0.5, "anchors": [[10, 13, 16, 30], [116, 90, 156, 198]],
        "backbone": [
            [-1, 1, "Conv", [16, 3, 8]], [-1, 1, block, [16]], [-1, 1, "Conv", [32, 3, 2]],
            [-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, 1], 1, "Concat", [1]], [2, 1, "Conv", [32]],
        ],
        "head": [[[4, 5], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    return DetectionModel(config).eval()


def save_raw(content: dict, path: Path, renamed: dict[str, str] | None = None) -> Path:
    """Write with torch.save; then put other globals ('module name') into the pickle, as other versions wrote them."""
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            if name.endswith("data.pkl"):
                for old, new in (renamed or {}).items():
                    before, after = (f"c{text}\n".replace(" ", "\n").encode() for text in (old, new))
                    assert before in data, f"the file does not name {old}"
                    data = data.replace(before, after)
            archive.writestr(name, data)
    return path


def image(size: int = 64) -> torch.Tensor:
    """A fixed input picture (1, 3, size, size)."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def boxes(model: nn.Module, size: int = 64) -> torch.Tensor:
    """Decoded boxes of the fixed picture."""
    return model(image(size))[0]


# -- real files --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("fuse", [False, True])
def test_files_of_the_releases(shared_folder, release, fuse):
    file = shared_folder / f"conformance/v6.2/checkpoints/{release}_tiny.pt"
    recorded = np.load(file.with_suffix(".npz"))
    model = attempt_load(file, fuse=fuse)
    with torch.no_grad():
        found = model(torch.from_numpy(recorded["x"]))[0]
    torch.testing.assert_close(found, torch.from_numpy(recorded["z"]).float(), atol=5e-2, rtol=5e-3)
    names = model.names if isinstance(model.names, dict) else dict(enumerate(model.names))
    assert names == {0: "a", 1: "b", 2: "c"}


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES[::2])
def test_files_of_the_releases_survive_stripping(shared_folder, release, tmp_path):
    file = shared_folder / f"conformance/v6.2/checkpoints/{release}_tiny.pt"
    strip_optimizer(file, tmp_path / "stripped.pt")
    before, after = (load_checkpoint(path) for path in (file, tmp_path / "stripped.pt"))
    source = (before.get("ema") or before["model"]).half().state_dict()
    state = after["model"].state_dict()
    assert source.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in source.items())


def test_released_weights(shared_folder):
    checkpoint = load_checkpoint(shared_folder / "weights/yolov5n.pt")
    model = checkpoint["model"]
    assert (checkpoint["epoch"], checkpoint["ema"], checkpoint["best_fitness"]) == (-1, None, None)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1872157
    assert len(model.state_dict()) == 349
    assert model.names[0] == "person"
    flat = 0.5 + 0.5 * torch.sin(0.01 * torch.arange(3 * 64 * 64, dtype=torch.float64))
    with torch.no_grad():
        found = model.float().eval()(flat.float().view(1, 3, 64, 64))[0]
    assert found.shape == (1, 252, 85)
    assert found.double().sum().item() == pytest.approx(34284.87, abs=0.5)
    expected = torch.tensor([6.689337, 3.685586, 11.177749, 6.128234, 0.000424670, 0.248095])
    torch.testing.assert_close(found[0, 0, :6], expected, atol=1e-3, rtol=1e-4)


# -- what older releases wrote, rebuilt ----------------------------------------------------------------------------


def test_a_model_of_v5(tmp_path):
    model = tiny_model()
    expected = boxes(model)
    head = model.model[-1]
    del head.anchor_grid
    head.register_buffer("anchor_grid", torch.ones(2, 1, 2, 1, 1, 2))
    head.grid = [torch.full((1, 1, 8, 8, 2), 9.0), torch.full((1, 1, 4, 4, 2), 9.0)]  # cached, without the offset
    for module in (model, head, *(module for module in model.modules() if isinstance(module, nn.SiLU))):
        vars(module).pop("inplace", None)
    for module in model.modules():
        if isinstance(module, nn.Upsample):
            del module.recompute_scale_factor
    vars(model).pop("yaml_file", None)
    file = save_raw({"model": model}, tmp_path / "old.pt", {"models.yolo DetectionModel": "models.yolo Model"})
    loaded = load_checkpoint(file)["model"]
    assert type(loaded) is DetectionModel
    assert "anchor_grid" not in " ".join(loaded.state_dict())
    assert loaded.model[-1].inplace is True
    torch.testing.assert_close(boxes(loaded), expected)
    torch.testing.assert_close(boxes(attempt_load(file, fuse=True)), expected, atol=1e-4, rtol=1e-4)


def test_a_cached_grid_is_not_trusted(tmp_path):
    model = tiny_model()
    expected = boxes(model)
    model.model[-1].grid = [grid + 0.5 for grid in model.model[-1].grid]  # as v6.1 cached it
    save_raw({"model": model}, tmp_path / "cached.pt")
    torch.testing.assert_close(boxes(load_checkpoint(tmp_path / "cached.pt")["model"]), expected)


@pytest.mark.parametrize(
    ("block", "old"),
    [
        ("GhostBottleneck", "models.experimental GhostBottleneck"),
        ("GhostConv", "models.experimental GhostConv"),
        ("CrossConv", "models.experimental CrossConv"),
    ],
)
def test_blocks_that_moved(tmp_path, block, old):
    model = tiny_model(block=block)
    file = save_raw({"model": model}, tmp_path / "moved.pt", {f"models.common {block}": old})
    loaded = load_checkpoint(file)["model"]
    assert type(loaded.model[1]) is getattr(common, block)
    torch.testing.assert_close(boxes(loaded), boxes(model))


def test_attention_saved_with_an_old_torch(tmp_path):
    model = tiny_model(block="C3TR")
    expected = boxes(model)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            del module.batch_first
    linear = "torch.nn.modules.linear "
    renamed = {linear + "NonDynamicallyQuantizableLinear": linear + "_LinearWithBias"}
    file = save_raw({"model": model}, tmp_path / "attention.pt", renamed)
    torch.testing.assert_close(boxes(load_checkpoint(file)["model"]), expected)


def test_missing_attributes_are_filled_in():
    model = tiny_model(nc=3)
    configuration = model.yaml
    for name in ("yaml", "names", "stride", "inplace"):
        delattr(model, name)
    model.md = configuration
    modernize(model)
    assert model.yaml == configuration
    assert model.names == ["0", "1", "2"]
    assert model.stride.tolist() == [8.0, 16.0]
    assert model.inplace is True


@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("fitness", [np.array([0.5]), np.float64(0.5), np.float32(0.5), 0.5])
def test_numpy_values_of_either_major_version(tmp_path, core, fitness):
    saved_by = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
    function = None if isinstance(fitness, float) and not isinstance(fitness, np.generic) else "scalar"
    function = "_reconstruct" if isinstance(fitness, np.ndarray) else function
    renamed = {f"{saved_by}.multiarray {function}": f"numpy.{core}.multiarray {function}"} if function else {}
    model = tiny_model()
    model.hyp = {"box": np.float64(0.05)} if function == "scalar" else {"box": 0.05}
    file = save_raw({"model": model, "best_fitness": fitness}, tmp_path / "numpy.pt", renamed)
    checkpoint = load_checkpoint(file)
    assert type(checkpoint["best_fitness"]) is float
    assert checkpoint["best_fitness"] == 0.5
    assert type(checkpoint["model"].hyp["box"]) is float


def test_paths_and_namespaces_in_the_options(tmp_path):
    home = PosixPath.__module__
    options = argparse.Namespace(project=PosixPath("runs/train"), names={"a", "b"}, epochs=3)
    file = save_raw({"model": tiny_model(), "opt": options, "git": {"branch": None}}, tmp_path / "opt.pt")
    assert load_checkpoint(file)["opt"] == {"project": "runs/train", "names": {"a", "b"}, "epochs": 3}
    windows = {f"{home} PosixPath": "pathlib WindowsPath"}
    checkpoint = load_checkpoint(save_raw({"model": tiny_model(), "opt": options}, tmp_path / "windows.pt", windows))
    assert checkpoint["opt"]["project"] == "runs\\train"


def test_names_as_a_mapping(tmp_path):
    model = tiny_model()
    model.names = {0: "face", 1: "mask"}
    file = save_raw({"model": model, "git": {"remote": None, "branch": None, "commit": None}}, tmp_path / "v7.pt")
    assert load_checkpoint(file)["model"].names == {0: "face", 1: "mask"}
    strip_optimizer(file)
    assert load_checkpoint(file)["model"].names == ["face", "mask"]  # v6.2 would read a mapping's keys
    assert load_checkpoint(file)["git"] == {"remote": None, "branch": None, "commit": None}


@pytest.mark.parametrize("name", ["ClassificationModel", "SegmentationModel"])
def test_models_of_other_tasks(tmp_path, name):
    file = save_raw(
        {"model": tiny_model()}, tmp_path / "task.pt", {"models.yolo DetectionModel": f"models.yolo {name}"}
    )
    with pytest.raises(CheckpointError, match=f"another task, a {name}: expected a detection checkpoint"):
        load_checkpoint(file)


def test_an_unknown_block_is_named(tmp_path):
    renamed = {"models.common Bottleneck": "models.common SomebodysBlock"}
    file = save_raw({"model": tiny_model()}, tmp_path / "custom.pt", renamed)
    with pytest.raises(CheckpointError, match=r"models\.common\.SomebodysBlock"):
        load_checkpoint(file)


# -- attempt_load ------------------------------------------------------------------------------------------------------


def saved(folder: Path, name: str = "model.pt", ema: nn.Module | None = None, **keywords) -> Path:
    """A checkpoint of ``tiny_model(**keywords)``."""
    save_checkpoint({"model": tiny_model(**keywords), "ema": ema, "optimizer": {"state": {}}}, folder / name)
    return folder / name


def test_average_is_preferred_and_ready(tmp_path):
    average = tiny_model(seed=5)
    model = attempt_load(saved(tmp_path, ema=average.train()), fuse=False)
    torch.testing.assert_close(boxes(model), boxes(average.eval()))
    assert not model.training
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_fusing_changes_nothing_visible(tmp_path):
    file = saved(tmp_path)
    plain, fused = attempt_load(file, fuse=False), attempt_load(str(file), device=torch.device("cpu"))
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(boxes(plain), boxes(fused), atol=1e-4, rtol=1e-4)


def test_inplace_reaches_head_and_activations(tmp_path):
    file = saved(tmp_path)
    for inplace in (True, False):
        model = attempt_load(file, inplace=inplace)
        chosen = [module.inplace for module in model.modules() if isinstance(module, Detect | nn.SiLU | DetectionModel)]
        assert len(chosen) > 5
        assert set(chosen) == {inplace}
    torch.testing.assert_close(boxes(attempt_load(file, inplace=True)), boxes(attempt_load(file, inplace=False)))


def test_ensemble(tmp_path):
    files = [saved(tmp_path, "a.pt", seed=1), saved(tmp_path, "b.pt", seed=2)]
    ensemble = attempt_load(files)
    first, second = (attempt_load(file) for file in files)
    assert isinstance(ensemble, Ensemble)
    joined, rest = ensemble(image())
    assert rest is None
    torch.testing.assert_close(joined, torch.cat([boxes(first), boxes(second)], dim=1))
    assert (ensemble.names, ensemble.nc, ensemble.yaml) == (first.names, 2, first.yaml)
    assert ensemble.stride.tolist() == [8, 16]
    assert ensemble(image(), augment=True)[0].shape[1] > joined.shape[1]
    assert type(attempt_load(files[:1])) is DetectionModel


def test_ensemble_of_different_classes(tmp_path):
    files = [saved(tmp_path, "two.pt", nc=2), saved(tmp_path, "three.pt", nc=3)]
    with pytest.raises(InputError, match=r"same classes.*two\.pt: 2.*three\.pt: 3"):
        attempt_load(files)
    with pytest.raises(InputError, match="no weights"):
        attempt_load([])
