"""Re-fitting by least squares: exact where an exact solution exists, nearer to the full network everywhere else."""

from __future__ import annotations

import logging
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from models.yolo import DetectionModel
from prune_tools.channels.structure import Structure
from prune_tools.planning.plan import Plan
from prune_tools.repair.folding import fold_constants
from prune_tools.repair.layer_walk import MEMORY_SHARE, affordable_images
from prune_tools.repair.reconstruction import Reconstruction, RefitSettings, empty_recording, patches, reconstruct
from prune_tools.training_images import Batch
from prune_tools.yolo_pruned import outputs_of, prune_model
from tests.pruning_networks import ARCHITECTURES, OWN_CONFIG, thin, with_random_norms
from utils.log import LOGGER


def noise(count: int, size: int, seed: int) -> Batch:
    """Images (count, 3, size, size) whose structure is coarse, as that of photographs; every pixel matters alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=generator) * 255
    images = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").to(torch.uint8)
    return Batch(images, torch.full((count, size, size), 1 / size**2))


def image_size(model: DetectionModel) -> int:
    return 2 * max(64, int(model.stride.max()))


def duplicate_channels(model: nn.Module, groups: list, plan: Plan) -> None:
    """Let each removed channel compute what a channel that stays computes."""
    modules = dict(model.named_modules())
    for group in groups:
        removed, kept = plan.removed(group), plan.kept[group.name]
        twins = kept[np.arange(len(removed)) % len(kept)]
        for member in group.of_role("output", "norm"):
            to, of = (torch.as_tensor(member.indices[positions]) for positions in (removed, twins))
            for value in (*modules[member.path].parameters(), *modules[member.path].buffers()):
                if value.ndim:
                    value.data[to] = value.data[of]


def prune(full: DetectionModel, scope: str = "seed", share: float = 0.4):
    """A narrow network without its last ``share`` of each group, and what re-fitting it needs to know."""
    structure = Structure.of(full).select(scope)
    groups = structure.groups
    plan = Plan({group.name: np.arange(max(1, round(group.size * (1 - share)))) for group in groups})
    pruned = deepcopy(full)
    return pruned, structure, groups, plan


def difference(model: nn.Module, full: nn.Module, batch: Batch) -> float:
    """Mean square difference of the raw heads, as a share of their variance."""
    inputs = batch.images.double() / 255
    pairs = list(zip(outputs_of(model, inputs)[1:], outputs_of(full, inputs)[1:], strict=True))
    return sum(float((ours - theirs).square().mean() / theirs.var()) for ours, theirs in pairs) / len(pairs)


@pytest.mark.slow
def test_channels_with_a_twin_that_stays_are_replaced_without_loss():
    full = thin("yolov5n")
    pruned, structure, groups, plan = prune(full)
    duplicate_channels(full, groups, plan)
    pruned = deepcopy(full)
    cuts = prune_model(pruned, groups, plan)
    before = difference(pruned, full, noise(2, 64, seed=9))
    reconstruct(structure, pruned, cuts, [noise(4, 64, seed) for seed in range(3)], settings=RefitSettings(ridge=1e-9))
    assert difference(pruned, full, noise(2, 64, seed=9)) < 1e-4 * before


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_comes_nearer_to_the_full_network(name):
    full = thin(name)
    pruned, structure, groups, plan = prune(full, "all", share=0.2)
    cuts = prune_model(pruned, groups, plan)
    size = image_size(full)
    unseen = noise(2, size, seed=9)
    before = difference(pruned, full, unseen)
    result = reconstruct(
        structure, pruned, cuts, [noise(4, size, seed) for seed in range(4)], settings=RefitSettings(positions=64)
    )
    assert difference(pruned, full, unseen) < 0.7 * before
    assert all(after <= first + 1e-9 for first, after in result.unexplained.values())


@pytest.mark.slow
def test_a_norm_behind_a_concatenation_takes_the_constants_of_all_that_it_joins():
    """BottleneckCSP: what its norm gives is that of before, and folding the constants first changes nothing."""
    config = {
        "nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 3,
        "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "BottleneckCSP", [32]], [-1, 1, "Conv", [32, 3, 2]]],
        "head": [[[2], 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip
    full = with_random_norms(DetectionModel(config))
    _, structure, groups, plan = prune(full, "all", share=0.4)
    modules = dict(full.named_modules())
    with torch.no_grad():
        for group in groups:
            for member in group.of_role("norm"):  # what goes emits about a constant, and a large one
                gone = member.indices[plan.removed(group)]
                modules[member.path].weight[gone], modules[member.path].bias[gone] = 1e-3, 2.0
    batches, unseen, means = [noise(4, 64, seed) for seed in range(4)], noise(4, 64, seed=9), []
    for fold in (False, True):
        pruned = deepcopy(full)
        cuts = prune_model(pruned, groups, plan)
        if fold:
            fold_constants(structure, pruned, plan)
        target = norm_output(full, unseen)[:, cuts["model.1.bn"].outputs]
        spread, before = target.var((0, 2, 3)).mean(), norm_output(pruned, unseen)
        reconstruct(structure, pruned, cuts, batches)
        assert (norm_output(pruned, unseen) - target).square().mean() < 0.01 * spread
        assert fold or (before - target).square().mean() > spread
        means.append(pruned.get_submodule("model.1.bn").running_mean)
    torch.testing.assert_close(*means)


def norm_output(model: DetectionModel, batch: Batch) -> torch.Tensor:
    """Return what the norm inside the block gives."""
    seen = []
    hook = model.get_submodule("model.1.bn").register_forward_hook(lambda *_: seen.append(_[2]))
    outputs_of(model, batch.images.to(next(model.parameters())) / 255)
    hook.remove()
    return seen[0]


@pytest.mark.slow
def test_blocks_without_a_norm_and_growing_maps_are_walked_through():
    full = with_random_norms(DetectionModel(deepcopy(OWN_CONFIG)))
    pruned, structure, groups, plan = prune(full, "all", share=0.2)
    cuts = prune_model(pruned, groups, plan)
    result = reconstruct(structure, pruned, cuts, [noise(4, 64, seed) for seed in range(2)])
    narrowed = [path for path, cut in cuts.items() if cut.inputs is not None and path.endswith("conv")]
    assert set(narrowed) - set(result.unexplained) <= {
        path for path, module in full.named_modules() if isinstance(module, nn.ConvTranspose2d)
    }


@pytest.mark.slow
def test_what_lies_before_the_first_cut_and_all_gammas_stay():
    full = thin("yolov5n").float()
    pruned, structure, groups, _ = prune(full)
    late = [group for group in groups if group.name == "model.7.conv"]
    plan = Plan({late[0].name: np.arange(late[0].size // 2)})
    cuts = prune_model(pruned, late, plan)
    untouched = deepcopy(pruned.state_dict())
    result = reconstruct(structure, pruned, cuts, [noise(2, 64, seed=0)])
    assert next(iter(result.unexplained)).startswith("model.8.")
    changed = {name for name, value in pruned.state_dict().items() if not torch.equal(value, untouched[name])}
    assert changed
    assert all(int(name.split(".")[1]) >= 8 for name in changed)
    assert all(name.endswith(("conv.weight", "running_mean")) or ".m." in name for name in changed)


@pytest.mark.slow
def test_nothing_is_solved_where_nothing_was_removed():
    full = thin("yolov5n")
    pruned, structure, groups, _ = prune(full)
    plan = Plan({group.name: np.arange(group.size) for group in groups})
    result = reconstruct(structure, pruned, prune_model(pruned, groups, plan), [noise(2, 64, seed=0)])
    assert result.unexplained == {}
    assert "Nothing to re-fit" in result.summary()
    assert "fell from 50.0% to 25.0%" in Reconstruction(4, {"a": (0.6, 0.3), "b": (0.4, 0.2)}).summary()


@pytest.mark.slow
def test_a_recording_of_the_full_network_changes_nothing(monkeypatch):
    full, batches = thin("yolov5n"), [noise(4, 64, seed) for seed in range(2)]
    recording = empty_recording(full, images=8)
    for share in (0.2, 0.5, 0.5):
        expected, structure, groups, plan = prune(full, share=share)
        cuts = prune_model(expected, groups, plan)
        network = deepcopy(expected)
        reconstruct(structure, expected, cuts, batches)
        with monkeypatch.context() as patch:
            if share == 0.5:  # known by now
                patch.setattr(
                    "prune_tools.repair.reconstruction.Refit._record", lambda *_: pytest.fail("it runs again")
                )
            reconstruct(structure, network, cuts, batches, recording=recording)
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in expected.state_dict().items())
    network = deepcopy(full)
    prune_model(network, groups, plan)
    reconstruct(structure, network, cuts, batches[:1], recording=recording)  # other batches: recorded anew
    assert {len(samples) for samples in recording.values()} == {1}
    monkeypatch.setattr("prune_tools.repair.reconstruction.available_memory", lambda: 1000)
    assert empty_recording(full, images=8) is None


@pytest.mark.slow
def test_short_memory_means_fewer_images(monkeypatch):
    full = thin("yolov5n").float()
    pruned, structure, groups, plan = prune(full)
    cuts = prune_model(pruned, groups, plan)
    batches = [noise(2, 64, seed) for seed in range(4)]
    monkeypatch.setattr("prune_tools.repair.layer_walk.available_memory", lambda: 10**12)
    assert reconstruct(structure, deepcopy(pruned), cuts, batches).images == 8
    each = 10**12 // affordable_images(full, batches[0].images[:1])
    monkeypatch.setattr("prune_tools.repair.layer_walk.available_memory", lambda: 5 * each)
    assert reconstruct(structure, deepcopy(pruned), cuts, batches).images == 4
    # the images themselves, and at least the two networks' first maps
    assert each * MEMORY_SHARE > 3 * 64 * 64 + 2 * 4 * full.model[0].conv.out_channels * 32 * 32


@pytest.mark.parametrize(
    ("kernel", "keywords"),
    [
        (1, {}),
        (3, {"padding": 1, "stride": 2}),
        (3, {"padding": 2, "dilation": 2}),
        ((1, 3), {"padding": (0, 1)}),
        (5, {"padding": 2, "groups": 6}),
        (3, {"padding": 1, "groups": 2, "padding_mode": "replicate"}),
    ],
)
def test_patches_times_weights_is_the_convolution(kernel, keywords):
    torch.manual_seed(0)
    module = nn.Conv2d(6, 6, kernel, bias=False, dtype=torch.double, **keywords)
    inputs = torch.rand(2, 6, 9, 7, dtype=torch.double)
    expected = module(inputs).flatten(2)
    places = torch.randint(expected.shape[2], (2, 5))
    taken = expected.gather(2, places[:, None].expand(-1, 6, -1))  # (B, C, P)
    weights = module.weight.flatten(1).unflatten(0, (module.groups, -1)).transpose(1, 2)  # (G, K, C / G)
    product = patches(module, inputs, places) @ weights  # (G, B * P, C / G)
    torch.testing.assert_close(product.transpose(0, 1).flatten(1), taken.transpose(1, 2).flatten(0, 1))


@pytest.mark.slow
def test_what_lies_outside_the_focus_does_not_count():
    full = thin("yolov5n").float()
    pruned, structure, groups, _ = prune(full)
    first = [group for group in groups if group.name == "model.1.conv"]
    cuts = prune_model(pruned, first, Plan({"model.1.conv": np.arange(first[0].size // 2)}))
    solved = []
    for seed in (1, 2):  # the same left half, another right half
        batch, other = noise(2, 64, seed=0), noise(2, 64, seed)
        batch.images[..., 32:] = other.images[..., 32:]
        batch.focus[..., 8:] = 0
        narrow = deepcopy(pruned)
        reconstruct(structure, narrow, cuts, [batch])
        solved.append(narrow.state_dict()["model.2.cv1.conv.weight"])
    assert torch.equal(*solved)
    assert not torch.equal(solved[0], pruned.state_dict()["model.2.cv1.conv.weight"])


def test_a_convolution_that_runs_twice_keeps_its_weights(caplog, monkeypatch):
    monkeypatch.setattr("prune_tools.yolo_pruned.describe", lambda model: model.yaml)  # no YAML says it
    caplog.set_level(logging.INFO, logger=LOGGER.name)

    class Twice(nn.Module):
        def __init__(self, once: nn.Module) -> None:
            super().__init__()
            self.once = once

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.once(self.once(x))

    plain = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 3,
             "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 1, 1]]],
             "head": [[[2], 1, "Detect", ["nc", "anchors"]]]}  # fmt: skip
    full = with_random_norms(DetectionModel(plain))
    layer: nn.Module = Twice(full.model[1])
    layer.i, layer.f, layer.type, layer.np = 1, -1, "Twice", 0
    full.model[1] = layer
    full.model[1].once.conv.stride = (1, 1)
    pruned, structure, groups, plan = prune(full, "all")
    cuts = prune_model(pruned, groups, plan)
    before = pruned.model[1].once.conv.weight.clone()
    result = reconstruct(structure, pruned, cuts, [noise(4, 64, 0)])
    assert "model.1.once.conv keeps its weights" in caplog.text
    assert "model.1.once.conv" not in result.unexplained and "model.3.m.0" in result.unexplained
    assert torch.equal(pruned.model[1].once.conv.weight, before)
