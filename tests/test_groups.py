"""Channel groups: what belongs together, what may go, and why something has to stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.common import C3, Bottleneck, Conv
from models.yolo import DetectionModel
from prune_tools import groups
from prune_tools.channels.groups import describe, find_groups, protect, select_groups
from prune_tools.channels.tracing import trace_model
from tests.pruning_networks import prunable_norms, thin
from utils.commands.options import parse
from utils.errors import InputError


def members(model: nn.Module, name: str) -> list[str]:
    group = next(group for group in find_groups(model) if group.name == name)
    return [f"{member.role} {member}" for member in group.members]


@pytest.fixture(scope="module")
def nano() -> DetectionModel:
    return DetectionModel("yolov5n.yaml")


@pytest.mark.slow
def test_plain_convolution(nano):
    assert members(nano, "model.1.conv") == [
        "output model.1.conv[0:32]", "norm model.1.bn[0:32]",
        "input model.2.cv1.conv[0:32]", "input model.2.cv2.conv[0:32]",
    ]  # fmt: skip


def test_offsets_follow_concatenations(nano):
    assert members(nano, "model.6.cv3.conv")[2:] == [
        "input model.7.conv[0:128]", "input model.13.cv1.conv[128:256]", "input model.13.cv2.conv[128:256]",
    ]  # fmt: skip


def test_sppf_reads_its_channels_four_times(nano):
    readers = [member for member in members(nano, "model.9.cv1.conv") if member.startswith("input")]
    assert readers == [f"input model.9.cv2.conv[{start}:{start + 128}]" for start in (0, 128, 256, 384)]


def test_chain_of_shortcuts_is_one_group(nano):
    group = next(group for group in find_groups(nano) if group.name == "model.4.cv1.conv")
    assert [member.path for member in group.norms] == ["model.4.cv1.bn", "model.4.m.0.cv2.bn", "model.4.m.1.cv2.bn"]
    assert group.prunable and "shortcut" in group.exclusion("seed") and not group.exclusion("all")


def test_head_and_image_stay(nano):
    reasons = {group.name: group.reason for group in find_groups(nano) if group.reason}
    assert set(reasons) == {"input of model.0.conv", "model.24.m.0", "model.24.m.1", "model.24.m.2"}
    assert "input of the network" in reasons["input of model.0.conv"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, share",
    [
        ("yolov5n", 0.22),
        ("yolov5m", 0.30),
        ("yolov5l", 0.35),
        ("yolov5x", 0.39),
        ("yolov5n6", None),
        ("yolov5-fpn", None),
    ],
)
def test_scope_seed_is_the_original_rule(name, share):
    model = thin(name)
    left_whole = set()
    for path, module in model.named_modules():
        if isinstance(module, C3):
            for number, block in enumerate(module.m):
                if isinstance(block, Bottleneck) and block.add:
                    left_whole |= {f"{path}.cv1.bn", f"{path}.m.{number}.cv1.bn", f"{path}.m.{number}.cv2.bn"}
    norms = {path: module for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert set(prunable_norms(model)) == set(norms) - left_whole
    if share:  # the channels that the original tools can never remove
        total = sum(norm.num_features for norm in norms.values())
        assert sum(norms[path].num_features for path in left_whole) / total == pytest.approx(share, abs=0.006)


def test_ghost_couples_depthwise_convolutions():
    model = thin("yolov5s-ghost")
    group = next(group for group in find_groups(model) if group.name == "model.1.cv1.conv")
    assert [member.path for member in group.producers] == ["model.1.cv1.conv", "model.1.cv2.conv"]
    assert [member.role for member in group.members].count("depthwise") == 1
    half = group.size
    assert str(group.readers[1]) == f"model.2.cv1.conv[{half}:{2 * half}]" or str(group.readers[-1]).endswith(
        f"[{half}:{2 * half}]"
    )
    assert group.exclusion("seed") and not group.exclusion("all")


@pytest.mark.slow
def test_transformer_is_left_whole_and_named():
    group = next(group for group in find_groups(thin("yolov5s-transformer")) if group.name == "model.8.cv1.conv")
    assert "flatten" in group.reason


class Toy(nn.Module):
    """Two convolutions with ``middle`` between them, called as ``middle(first(x))``."""

    def __init__(self, middle, act=True, width=6):
        super().__init__()
        self.first = Conv(3, 4, 3, act=act)
        self.second = Conv(width, 5, 3)
        self.middle = middle

    def forward(self, x):
        return self.second(self.middle(self.first(x)))


def first_group(model: nn.Module):
    return next(group for group in find_groups(model.eval()) if group.name == "first.conv")


@pytest.mark.parametrize(
    "middle, act, reason",
    [
        (lambda x: x, True, ""),
        (lambda x: x * 2.0, True, ""),
        (lambda x: sum([x, x]), True, ""),
        (lambda x: nn.functional.pad(x, (1, 1, 1, 1)), True, ""),
        (lambda x: x[..., ::2, 1:], True, ""),
        (lambda x: x, nn.Sigmoid(), "act(0) != 0"),
        (lambda x: x + 1.0, True, "add"),
        (lambda x: x.flip(1), True, "position"),
        (lambda x: x[:, [0, 1, 3, 2]], True, "position"),
        (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), True, "chunk"),
        (lambda x: x.roll(1, 1), True, "position"),
        (lambda x: x * x.mean((2, 3), keepdim=True), True, "mean"),
        (lambda x: x.softmax(1), True, "softmax"),
        (lambda x: nn.functional.pad(x, (1, 1), value=1.0), True, "pad"),
        (lambda x: x * float(x.sum() + 1), True, "sum"),
    ],
)
def test_operations_between_producer_and_reader(middle, act, reason):
    group = first_group(Toy(middle, act, width=4))
    assert reason in group.reason and bool(group.reason) == bool(reason)


def test_grouped_convolution_fixes_both_sides():
    groups = find_groups(Toy(nn.Conv2d(4, 6, 1, groups=2)).eval())
    assert all("2 groups" in group.reason for group in groups if group.name in ("first.conv", "middle"))


def test_module_that_runs_twice_is_fixed():
    shared = Conv(4, 4)
    model = Toy(lambda x: shared(shared(x)), width=4)
    model.shared = shared
    assert "more than once" in first_group(model).reason


def test_convolution_without_norm_has_no_score():
    groups = {group.name: group for group in find_groups(Toy(nn.Conv2d(4, 6, 1)).eval())}
    assert "norm" in groups["middle"].reason and groups["first.conv"].prunable


def test_untracked_channels_in_a_concatenation_keep_offsets():
    model = Toy(lambda x: torch.cat([torch.ones_like(x)[:, :2], x], 1))
    assert str(first_group(model).readers[0]) == "second.conv[2:6]"


def test_every_normalised_channel_is_in_one_group(nano):
    counted = {path: 0 for path, module in nano.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for group in find_groups(nano):
        for member in group.norms:
            counted[member.path] += group.size
    assert counted == {path: nano.get_submodule(path).num_features for path in counted}


def test_tracing_leaves_the_model_as_it_was(nano):
    nano.train()
    nano.model[3].eval()
    state = {name: value.clone() for name, value in nano.state_dict().items()}
    modes = [module.training for module in nano.modules()]
    trace_model(nano)
    assert modes == [module.training for module in nano.modules()]
    assert all(torch.equal(value, state[name]) for name, value in nano.state_dict().items())
    nano.train()


def test_fused_model_has_nothing_to_prune():
    model = thin("yolov5n").eval().fuse()
    assert prunable_norms(model) == {}
    with pytest.raises(InputError, match=r"no prunable layers.*fused"):
        select_groups(find_groups(model))


def test_unknown_scope():
    with pytest.raises(InputError, match="scope 'most'"):
        select_groups([], "most")


def test_description_names_what_stays(nano):
    text = describe(find_groups(nano), "seed")
    assert "model.2.cv1.conv: 16 channels, left whole: it belongs to a shortcut" in text
    assert "read by   model.9.cv2.conv[0:128], model.9.cv2.conv[128:256]" in text


@pytest.mark.slow
def test_command_prints_groups(capsys: pytest.CaptureFixture):
    groups.main(parse(groups.GroupsOptions, "", ["--cfg", "yolov3-tiny.yaml"]))
    assert capsys.readouterr().out.strip().endswith("3184 of 3184 normalised channels can be pruned in scope all")


def test_a_fused_model_is_refused(monkeypatch):
    monkeypatch.setattr("prune_tools.opening.load_model", lambda _: (thin("yolov5n").fuse(), {}))
    with pytest.raises(InputError, match=r"is it fused, or quantised\?"):
        groups.main(groups.GroupsOptions(weights="fused.pt"))


def test_protecting_everything_says_what_to_do(nano):
    with pytest.raises(InputError, match=r"protected by --skip .*: protect fewer"):
        select_groups(protect(find_groups(nano), nano, ["model.*"]), "all")
