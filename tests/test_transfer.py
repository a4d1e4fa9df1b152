"""The network that a run starts from: it is the one of the checkpoint, whatever that was made of."""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import train
from models.backends import DetectMultiBackend
from models.common import SPP, Bottleneck, Conv
from models.description import describe
from models.loading import attempt_load, load_checkpoint
from models.transfer import build_model
from models.yolo import DetectionModel
from prune_tools import finetune, prune, train_sparity
from prune_tools.finetune import FinetuneOptions
from prune_tools.opening import check_architecture, load_model
from prune_tools.prune import PruneOptions
from prune_tools.train_sparity import SparseOptions
from tests.conftest import TINY_MODEL
from tests.pruning_networks import ARCHITECTURES, OWN_CONFIG, thin
from utils.callbacks import Callbacks
from utils.checkpoint import save_checkpoint
from utils.commands.options import build
from utils.errors import InputError
from utils.storage.files import write_yaml
from utils.training.options import TrainOptions

HUGE_ANCHORS = [[1000, 1300, 1600, 3000], [3000, 6100, 6200, 4500], [11600, 9000, 15600, 19800]]  # fit no label


def tiny_network(**changes: Any) -> DetectionModel:
    """The small detector of the tests with two classes, random weights and norms that count."""
    torch.manual_seed(0)
    model = DetectionModel(deepcopy({**TINY_MODEL, **changes}))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.affine:
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    model.names = ["disc", "square"]
    return model.eval()


def saved(model: DetectionModel, path: Path) -> Path:
    """A stripped checkpoint of ``model``."""
    save_checkpoint({"epoch": -1, "model": model, "ema": None, "optimizer": None}, path)
    return path


def short_run(options_class: type, weights: str | Path, data: Path, folder: Path, **changes: Any) -> Any:
    """Options of one epoch on the CPU, without plots and loader processes."""
    common = {
        "data": str(data), "weights": str(weights), "imgsz": 64, "batch_size": 4, "epochs": 1, "workers": 0,
        "device": "cpu", "project": str(folder), "noplots": True,
    }  # fmt: skip
    return build(options_class, **(common | changes))


# -- anchors -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options_class", "changes"),
    [(train_sparity, SparseOptions, {"st": True}), (finetune, FinetuneOptions, {})],
    ids=["sparse", "finetune"],
)
@pytest.mark.parametrize("with_cfg", [False, True])
def test_a_trained_head_keeps_its_anchors(
    command, options_class, changes, with_cfg, tiny_dataset, tiny_cfg, tmp_path, caplog
):  # fmt: skip
    source = tiny_network(anchors=HUGE_ANCHORS)
    weights = saved(source, tmp_path / "trained.pt")
    cfg = str(tiny_cfg) if with_cfg else ""
    with caplog.at_level("INFO", "yolov5"):
        command.main(short_run(options_class, weights, tiny_dataset, tmp_path / "runs", cfg=cfg, **changes))
    after = load_checkpoint(tmp_path / "runs/exp/weights/last.pt")["model"].model[-1].anchors.float()
    assert torch.equal(after, source.model[-1].anchors.half().float())
    assert "fit this data set poorly at 64 pixels, but they stay" in caplog.text


def test_train_finds_anchors_and_its_average_has_them_at_once(tiny_dataset, tmp_path):
    source = tiny_network(anchors=HUGE_ANCHORS)
    options = short_run(TrainOptions, saved(source, tmp_path / "trained.pt"), tiny_dataset, tmp_path / "runs")
    callbacks, seen = Callbacks(), []

    def note(state: Any) -> None:
        seen.append((state.model.model[-1].anchors.clone(), state.ema.ema.model[-1].anchors.clone()))

    callbacks.register_action("on_training_ready", callback=note)
    train.main(options, callbacks)
    ((own, averaged),) = seen
    assert own.max() < source.model[-1].anchors.max() / 10
    assert torch.equal(own, averaged)


def test_a_new_head_may_get_new_anchors(tiny_dataset, tmp_path):
    source = tiny_network(anchors=HUGE_ANCHORS, nc=5)
    source.names = list("abcde")
    weights = saved(source, tmp_path / "other.pt")
    train_sparity.main(short_run(SparseOptions, weights, tiny_dataset, tmp_path / "runs", st=True))
    after = load_checkpoint(tmp_path / "runs/exp/weights/last.pt")["model"].model[-1].anchors.float()
    assert after.max() < source.model[-1].anchors.max() / 10


# -- the network as it is ----------------------------------------------------------------------------------------------


def architecture(name: str) -> DetectionModel:
    """A shipped configuration, or one of all other blocks, thin and with random norms, in single precision."""
    torch.manual_seed(0)
    if name != "own":
        return thin(name).float()  # type: ignore[return-value]
    return DetectionModel(deepcopy(OWN_CONFIG)).eval()


def alter(model: DetectionModel, seed: int) -> int:
    """Change modules by chance in ways that a file can come with; returns how many changes were made."""
    chance, count = random.Random(seed), 0
    activations = (nn.LeakyReLU(0.2), nn.ReLU6(), nn.Hardswish(), nn.Identity(), nn.Mish(), nn.ELU(0.5), nn.PReLU())
    for path, module in list(model.named_modules()):
        if chance.random() > 0.3:
            continue
        count += 1
        if isinstance(module, Conv):
            module.act = deepcopy(chance.choice(activations))
        elif isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = chance.choice([(1e-5, 0.1), (1e-2, None), (1e-3, 0.5)])
            if chance.random() < 0.3:
                module.register_parameter("weight", None)
                module.register_parameter("bias", None)
                module.affine = False
            elif chance.random() < 0.3:
                module.running_mean = module.running_var = module.num_batches_tracked = None
                module.track_running_stats = False
        elif isinstance(module, nn.Conv2d):
            if module.kernel_size == (3, 3):
                module.dilation, module.padding = (2, 2), (2, 2)
            if chance.random() < 0.3 and ".m." not in path:
                module.bias = nn.Parameter(torch.rand(module.out_channels)) if module.bias is None else None
        elif isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", True
        elif isinstance(module, nn.MaxPool2d) and module.stride == 1 and module.padding:
            module.kernel_size, module.padding = 7, 3
        else:
            count -= 1
    model.model[-1].anchors.mul_(1.25)
    return count


def outputs(model: nn.Module) -> torch.Tensor:
    """Decoded predictions of two images by a model in evaluation mode."""
    size = max(64, int(model.stride.max()))
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.float().eval()(images)[0]


def rebuilt_by_training(path: Path, classes: int, **changes: Any) -> DetectionModel:
    """The network that train.py starts with."""
    options = build(TrainOptions, weights=str(path), data="unused", **changes)
    return build_model(options, {}, classes, load_checkpoint(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ARCHITECTURES, "own"])
def test_an_altered_network_is_trained_as_it_is(name, tmp_path):
    source = architecture(name)
    assert alter(source, seed=len(name)) > 5
    source.half().float()  # as it is stored
    path = saved(source, tmp_path / "altered.pt")
    expected = outputs(load_checkpoint(path)["model"])
    model = rebuilt_by_training(path, source.model[-1].nc)
    assert torch.equal(outputs(model), expected)
    for ours, theirs in zip(model.modules(), source.modules(), strict=True):
        assert type(ours) is type(theirs)
        if isinstance(theirs, nn.BatchNorm2d):
            assert ours.momentum == theirs.momentum

    # Its configuration says all of it, also as a file
    (tmp_path / "described.yaml").write_text(yaml.safe_dump(describe(load_checkpoint(path)["model"])))
    fresh = DetectionModel(tmp_path / "described.yaml")
    fresh.load_state_dict(load_checkpoint(path)["model"].float().state_dict())
    assert torch.equal(outputs(fresh), expected)
    assert torch.equal(fresh.model[-1].anchors, load_checkpoint(path)["model"].float().model[-1].anchors)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ARCHITECTURES, "own"])
def test_an_unaltered_network_keeps_its_configuration(name):
    source = architecture(name)
    described = describe(source)
    if isinstance(source.yaml["anchors"], int):  # whose numbers stand in the head alone
        described["anchors"] = source.yaml["anchors"]
    assert described == source.yaml


def test_the_class_count_may_change(tmp_path, caplog):
    source = tiny_network()
    alter(source, seed=3)
    path = saved(source, tmp_path / "altered.pt")
    with caplog.at_level("INFO", "yolov5"):
        model = rebuilt_by_training(path, 5)
    assert model.model[-1].nc == 5 and model.yaml["nc"] == 5
    before = dict(load_checkpoint(path)["model"].named_modules())
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (before[name].eps, before[name].momentum)
    total = len(model.state_dict())
    heads = sum(name.startswith("model.5.m.") for name in model.state_dict())
    assert f"Transferred {total - heads}/{total} items" in caplog.text


@pytest.mark.slow
def test_the_widths_of_a_network_that_others_have_pruned_are_measured(tmp_path):
    source = tiny_network()
    narrow = source.model[2].m[0]
    narrow.cv1.conv = nn.Conv2d(4, 3, 1, bias=False)
    narrow.cv1.bn = nn.BatchNorm2d(3, eps=1e-3, momentum=0.03)
    narrow.cv2.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    path = saved(source, tmp_path / "narrow.pt")
    assert torch.equal(outputs(rebuilt_by_training(path, 2)), outputs(load_checkpoint(path)["model"]))


@pytest.mark.slow
def test_a_module_that_no_configuration_describes_is_named(tmp_path):
    source = tiny_network()
    vars_of = {name: vars(source.model[4])[name] for name in ("i", "f", "type", "np")}
    source.model[4] = SPP(16, 16)
    vars(source.model[4]).update(vars_of)
    with pytest.raises(InputError, match=r"model\.4 is a SPP in the network and a SPPF in its configuration"):
        rebuilt_by_training(saved(source, tmp_path / "swapped.pt"), 2)

    source = tiny_network()
    source.model[2].m.append(Bottleneck(4, 4))
    with pytest.raises(InputError, match=r"model\.2\.m\.parts"):
        rebuilt_by_training(saved(source, tmp_path / "longer.pt"), 2)

    source = tiny_network()
    source.model[-1].stride = source.model[-1].stride * 2
    source.stride = source.model[-1].stride
    with pytest.raises(InputError, match="strides"):
        rebuilt_by_training(saved(source, tmp_path / "strides.pt"), 2)


def test_the_configuration_of_the_command_line_counts_and_says_so(tiny_cfg, tmp_path, caplog):
    path = saved(tiny_network(activation="nn.LeakyReLU(0.1)"), tmp_path / "leaky.pt")
    model = rebuilt_by_training(path, 2, cfg=str(tiny_cfg))
    assert type(model.model[0].act) is nn.SiLU
    assert "model.0.act is nn.SiLU() in --cfg and nn.LeakyReLU(0.1) in the checkpoint" in caplog.text
    caplog.clear()
    rebuilt_by_training(saved(tiny_network(), tmp_path / "plain.pt"), 2, cfg=str(tiny_cfg))
    assert "WARNING" not in caplog.text


@pytest.mark.parametrize("with_cfg", [False, True])
def test_a_fused_checkpoint_is_refused(with_cfg, tiny_cfg, tmp_path):
    torch.save({"model": tiny_network().fuse()}, tmp_path / "fused.pt")  # our own writer refuses it
    with pytest.raises(InputError, match=r"fused\.pt is fused: 10 of its batch norms"):
        rebuilt_by_training(tmp_path / "fused.pt", 2, cfg=str(tiny_cfg) if with_cfg else "")


def test_an_activation_is_kept_from_training_to_fine_tuning(tiny_dataset, tmp_path):
    write_yaml(tmp_path / "leaky.yaml", {**TINY_MODEL, "activation": "nn.LeakyReLU(0.1)"})
    runs = tmp_path / "runs"
    train.main(short_run(TrainOptions, "", tiny_dataset, runs, cfg=str(tmp_path / "leaky.yaml")))
    train_sparity.main(short_run(SparseOptions, runs / "exp/weights/last.pt", tiny_dataset, runs, st=True))
    pruned = prune.main(build(
        PruneOptions, weights=[str(runs / "exp2/weights/last.pt")], cfg="", data=str(tiny_dataset), imgsz=64,
        percent=0.3, reconstruct=0, noval=True, device="cpu", project=str(runs), name="pruned",
    ))  # fmt: skip
    finetune.main(short_run(FinetuneOptions, pruned / "pruned_model.pt", tiny_dataset, runs))
    for file in (runs / "exp/weights/best.pt", pruned / "pruned_model.pt", runs / "exp3/weights/best.pt"):
        model = load_checkpoint(file)["model"].float()
        acts = {repr(module.act) for module in model.modules() if isinstance(module, Conv)}
        assert len(acts) == 1 and "LeakyReLU(negative_slope=0.1" in acts.pop()
    rebuilt, model = DetectionModel(pruned / "pruned_model.yaml"), load_checkpoint(pruned / "pruned_model.pt")["model"]
    rebuilt.load_state_dict(model.float().state_dict())
    torch.testing.assert_close(outputs(rebuilt), outputs(model), rtol=1e-4, atol=1e-3)


def test_a_key_of_another_program_in_a_checkpoint(tmp_path):
    source = tiny_network(activation="nn.ReLU()")
    source.yaml["remark"] = "of another program"
    model = rebuilt_by_training(saved(source, tmp_path / "other.pt"), 2)
    assert type(model.model[0].act) is nn.ReLU and "remark" not in model.yaml


@pytest.mark.parametrize("seed", [1, 3])
def test_an_altered_network_goes_through_sparse_training_and_pruning(seed, tiny_dataset, tmp_path):
    source = tiny_network()
    alter(source, seed)
    source.model[2].cv1.bn.running_mean = source.model[2].cv1.bn.running_var = None  # in every batch anew
    source.model[2].cv1.bn.num_batches_tracked, source.model[2].cv1.bn.track_running_stats = None, False
    source.model[3].bn = nn.BatchNorm2d(16, affine=False)
    runs = tmp_path / "runs"
    train_sparity.main(short_run(SparseOptions, saved(source, tmp_path / "altered.pt"), tiny_dataset, runs, st=True))
    folder = prune.main(build(
        PruneOptions, weights=[str(runs / "exp/weights/last.pt")], cfg="", data=str(tiny_dataset), imgsz=64,
        percent=0.3, scope="all", reconstruct=4, recalibrate=4, noval=True, device="cpu", project=str(runs),
    ))  # fmt: skip
    model, fresh = load_checkpoint(folder / "pruned_model.pt")["model"], DetectionModel(folder / "pruned_model.yaml")
    assert model.model[2].cv1.bn.running_mean is None and model.model[3].bn.weight is None
    fresh.load_state_dict(model.float().state_dict())
    torch.testing.assert_close(outputs(fresh), outputs(model), rtol=1e-4, atol=1e-3)  # memory layouts may round


def test_pruning_with_the_configuration_of_another_network_is_refused(tiny_cfg, tmp_path):
    path = saved(tiny_network(activation="nn.LeakyReLU(0.1)"), tmp_path / "leaky.pt")
    model, _ = load_model(path)
    with pytest.raises(
        InputError, match=r"another architecture than .*: model\.0\.act is nn\.LeakyReLU\(0\.1\) in the ch"
    ):
        check_architecture(model, str(tiny_cfg), str(path))
    write_yaml(tmp_path / "leaky.yaml", {**TINY_MODEL, "activation": "nn.LeakyReLU(0.1)"})
    check_architecture(model, str(tmp_path / "leaky.yaml"), str(path))


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_networks_for_other_images_are_refused_where_they_are_opened(tmp_path):
    path = saved(tiny_network(ch=4), tmp_path / "four.pt")
    write_yaml(tmp_path / "one.yaml", {**TINY_MODEL, "ch": 1})
    options = build(TrainOptions, weights="", cfg=str(tmp_path / "one.yaml"), data="unused")
    for attempt in (
        lambda: DetectMultiBackend(path), lambda: attempt_load(path), lambda: load_model(path),
        lambda: rebuilt_by_training(path, 2),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"four\.pt takes images with 4 channels .* reads pictures with 3"):
            attempt()
    with pytest.raises(InputError, match=r"one\.yaml takes images with 1 channel "):
        build_model(options, {}, 2, None)
    assert attempt_load(path, channels=None)(torch.rand(1, 4, 64, 64))[0].shape[-1] == 7
    source = tiny_network(ch=4)
    source.yaml["ch"] = 3  # the network counts, not what its configuration says
    with pytest.raises(InputError, match="takes images with 4 channels"):
        attempt_load(saved(source, tmp_path / "lies.pt"))
