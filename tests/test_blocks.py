"""Building blocks: figures measured on YOLOv5 v6.2, channel layouts, state-dict names, fusing."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import nn

from models import common, experimental
from models.blocks import concatenate
from models.common import (
    C3,
    C3TR,
    Bottleneck,
    Contract,
    Conv,
    DWConv,
    Expand,
    Focus,
    GhostBottleneck,
    TransformerBlock,
    autopad,
)
from models.rare_blocks import MixConv2d, Sum
from utils.model_info import fuse_conv_and_bn

# (block, arguments, keywords, input channels, input side, parameters, state entries, output shape, sum, first, last)
MEASURED = [
    ("Conv", (4, 8, 3, 2), {}, 4, 8, 304, 6, (8, 4, 4), 2.26310, -0.026834, 0.178671),
    ("Conv", (4, 8, 6, 2, 2), {}, 4, 8, 1168, 6, (8, 4, 4), 3.18852, 0.131322, 0.105260),
    ("Conv", (4, 8, 1), {"act": False}, 4, 8, 48, 6, (8, 8, 8), -5.56040, 0.200979, 0.126204),
    ("DWConv", (4, 8, 3, 1), {}, 4, 8, 88, 6, (8, 8, 8), 0.13436, 0.066119, 0.072856),
    ("DWConvTranspose2d", (4, 8, 4, 2, 1), {}, 4, 8, 136, 2, (8, 16, 16), -12.15269, 0.168294, -0.113949),
    ("Bottleneck", (8, 8), {}, 8, 8, 344, 12, (8, 8, 8), 3.72549, 0.096804, 0.789455),
    ("Bottleneck", (8, 16), {}, 8, 8, 1264, 12, (16, 8, 8), 2.73253, 0.097190, -0.016620),
    ("BottleneckCSP", (8, 16, 2), {}, 8, 8, 1872, 43, (16, 8, 8), 4.04543, -0.036511, 0.091813),
    ("CrossConv", (8, 8, 3, 1, 1, 1.0, True), {}, 8, 8, 416, 12, (8, 8, 8), 3.67965, 0.104139, 0.792984),
    ("C3", (8, 16, 2), {}, 8, 8, 1792, 42, (16, 8, 8), 4.77539, 0.096373, -0.023913),
    ("C3", (8, 16, 2, False), {}, 8, 8, 1792, 42, (16, 8, 8), 4.89455, 0.098953, -0.038061),
    ("C3x", (8, 16, 2), {}, 8, 8, 1280, 42, (16, 8, 8), 4.77832, 0.096289, -0.023910),
    ("C3TR", (8, 16, 2), {}, 8, 4, 1736, 38, (16, 4, 4), 0.92193, 0.142132, -0.051498),
    ("TransformerBlock", (8, 16, 4, 1), {}, 8, 4, 2800, 17, (16, 4, 4), -4.58129, 0.193083, -0.335917),
    ("C3SPP", (8, 16), {}, 8, 8, 632, 30, (16, 8, 8), 5.04028, 0.096568, -0.036670),
    ("C3Ghost", (8, 16, 2), {}, 8, 8, 860, 66, (16, 8, 8), 5.50756, 0.092879, -0.042219),
    ("GhostConv", (8, 16, 3, 2), {}, 8, 8, 808, 12, (16, 4, 4), 8.93292, -0.137928, 0.059570),
    ("GhostBottleneck", (16, 16), {}, 16, 8, 476, 24, (16, 8, 8), 7.55662, 0.183839, 0.966403),
    ("GhostBottleneck", (16, 16, 3, 2), {}, 16, 8, 1028, 42, (16, 4, 4), 5.85179, 0.299497, -0.262002),
    ("SPP", (8, 16), {}, 8, 8, 328, 12, (16, 8, 8), 2.58490, 0.102576, -0.017865),
    ("SPPF", (8, 16), {}, 8, 8, 328, 12, (16, 8, 8), 2.58490, 0.102576, -0.017865),
    ("Focus", (3, 8, 3), {}, 3, 8, 880, 6, (8, 4, 4), 21.52092, -0.177635, 0.220161),
    ("MixConv2d", (8, 16), {}, 8, 8, 112, 7, (16, 8, 8), 0.82746, 0.031599, 0.090033),
    ("MixConv2d", (8, 16), {"equal_ch": False}, 8, 8, 160, 7, (16, 8, 8), 0.81542, 0.045684, 0.095438),
]


def fill_state(module: nn.Module) -> None:
    """Give every entry a fixed wave; variances stay positive."""
    for position, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.is_floating_point():
            wave = 0.2 * torch.sin(0.7 * torch.arange(tensor.numel(), dtype=torch.float64) + position)
            tensor.copy_((wave.abs() + 0.5 if name.endswith("running_var") else wave).view(tensor.shape))


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row[0]}{row[1]}{row[2] or ''}".replace(" ", ""))
def test_measured_outputs(row):
    name, arguments, keywords, channels, side, parameters, entries, shape, total, first, last = row
    block = getattr(common if hasattr(common, name) else experimental, name)(*arguments, **keywords).eval()
    fill_state(block)
    image = torch.sin(0.1 * torch.arange(channels * side * side, dtype=torch.float64)).float()
    with torch.no_grad():
        made = block(image.view(1, channels, side, side))
    assert sum(parameter.numel() for parameter in block.parameters()) == parameters
    assert len(block.state_dict()) == entries
    assert tuple(made.shape[1:]) == shape
    assert made.double().sum().item() == pytest.approx(total, abs=2e-4)
    assert made.flatten()[0].item() == pytest.approx(first, abs=2e-6)
    assert made.flatten()[-1].item() == pytest.approx(last, abs=2e-6)


def test_focus_and_contract_order_pixels_differently():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    focus = Focus(1, 4)
    focus.conv = nn.Identity()
    assert focus(image)[0].flatten(1).tolist() == [[0, 2, 8, 10], [4, 6, 12, 14], [1, 3, 9, 11], [5, 7, 13, 15]]
    assert Contract(2)(image)[0].flatten(1).tolist() == [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]


@pytest.mark.parametrize("gain", [2, 3])
def test_expand_undoes_contract(gain):
    image = torch.rand(2, 5, 6, 12)
    contracted = Contract(gain)(image)
    assert contracted.shape == (2, 5 * gain**2, 6 // gain, 12 // gain)
    assert torch.equal(Expand(gain)(contracted), image)


def test_padding_keeps_the_size():
    assert (autopad(1), autopad(3), autopad(6), autopad((1, 3)), autopad(3, 0)) == (0, 1, 3, (0, 1), 0)
    assert Conv(3, 4, (1, 5))(torch.rand(1, 3, 7, 9)).shape == (1, 4, 7, 9)


def test_activation_argument():
    relu = nn.ReLU()
    assert isinstance(Conv(1, 1).act, nn.SiLU)
    assert Conv(1, 1, act=relu).act is relu
    assert isinstance(Conv(1, 1, act=False).act, nn.Identity)
    assert isinstance(Conv(1, 1, act=None).act, nn.Identity)


def test_residual_needs_equal_widths_and_the_word():
    assert Bottleneck(8, 8).add
    assert not Bottleneck(8, 16).add
    assert not Bottleneck(8, 8, False).add
    block = Bottleneck(8, 8).eval()
    image = torch.rand(1, 8, 4, 4)
    assert torch.equal(block(image), image + block.cv2(block.cv1(image)))


def test_maps_that_are_joined_get_gradients_in_their_own_layout():
    """torch.cat would give them slices."""
    maps = [torch.rand(2, width, 4, 4).to(memory_format=torch.channels_last).requires_grad_() for width in (3, 5)]
    joined = concatenate(maps)
    dense = []
    for part in maps:
        part.register_hook(lambda gradient: dense.append(gradient.is_contiguous(memory_format=torch.channels_last)))
    weight = torch.rand_like(joined)
    (joined * weight).sum().backward()
    assert torch.equal(joined, torch.cat(maps, 1))
    assert dense == [True, True]
    for part, expected in zip(maps, weight.split([3, 5], 1), strict=True):
        assert torch.equal(part.grad, expected)


def test_transformer_ignores_the_order_of_pixels():
    """There is no position code but a linear map, so permuted pixels give permuted outputs."""
    block = TransformerBlock(8, 8, 4, 2).eval()
    assert block.conv is None
    image = torch.rand(1, 8, 4, 4)
    order = torch.randperm(16)
    shuffled = image.flatten(2)[:, :, order].view(1, 8, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(block(shuffled).flatten(2), block(image).flatten(2)[:, :, order])


def test_state_names():
    assert list(C3TR(8, 16, 1).state_dict())[-11:] == [
        "m.linear.weight", "m.linear.bias", "m.tr.0.q.weight", "m.tr.0.k.weight", "m.tr.0.v.weight",
        "m.tr.0.ma.in_proj_weight", "m.tr.0.ma.in_proj_bias", "m.tr.0.ma.out_proj.weight",
        "m.tr.0.ma.out_proj.bias", "m.tr.0.fc1.weight", "m.tr.0.fc2.weight",
    ]  # fmt: skip
    children = [name for name, _ in C3(8, 16).named_children()]
    assert children == ["cv1", "cv2", "cv3", "m"]
    assert [name for name, _ in GhostBottleneck(8, 8, 3, 2).named_children()] == ["conv", "shortcut"]


@pytest.mark.parametrize(("k", "equal", "expected"), [
    ((1, 3, 5), True, [6, 5, 6]), ((1, 3), False, [14, 2]),
])  # fmt: skip
def test_mixed_kernels_share_the_channels(k, equal, expected):
    block = MixConv2d(8, sum(expected), k, equal_ch=equal)
    assert [branch.out_channels for branch in block.m] == expected


def test_sum():
    maps = [torch.full((1, 1, 1, 1), value) for value in (1.0, 10.0, 100.0)]
    assert Sum(3)(maps).item() == 111
    factors = [2 / (1 + math.exp(0.5)), 2 / (1 + math.exp(1.0))]
    assert Sum(3, weight=True)(maps).item() == pytest.approx(1 + 10 * factors[0] + 100 * factors[1], rel=1e-5)


def randomise_norm(norm: nn.BatchNorm2d) -> None:
    generator = torch.Generator().manual_seed(1)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data.uniform_(0.5, 2, generator=generator)


@pytest.mark.parametrize("block", [Conv(6, 8, 3, 2), Conv(6, 8, (1, 3), (1, 2), g=2), DWConv(6, 12, 3)], ids=str)
def test_folding_the_norm_keeps_the_output(block):
    randomise_norm(block.eval().bn)
    image = torch.rand(2, 6, 8, 8)
    with torch.no_grad():
        expected = block(image)
        block.conv = fuse_conv_and_bn(block.conv, block.bn)
        del block.bn
        torch.testing.assert_close(block(image), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(block.forward_fuse(image), expected, rtol=1e-5, atol=1e-5)


def test_folding_takes_a_bias_and_keeps_dtype_and_gradients():
    convolution, norm = nn.Conv2d(3, 4, 3, padding=2, dilation=2, bias=True), nn.BatchNorm2d(4).eval()
    randomise_norm(norm)
    image = torch.rand(1, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(fuse_conv_and_bn(convolution, norm)(image), norm(convolution(image)))
    assert fuse_conv_and_bn(convolution, norm).weight.requires_grad
    frozen = fuse_conv_and_bn(convolution.requires_grad_(False).half(), norm.half())
    assert frozen.weight.dtype == torch.half
    assert not frozen.weight.requires_grad


def test_a_fused_block_survives_pickling():
    block = Conv(3, 4).eval()
    block.conv = fuse_conv_and_bn(block.conv, block.bn)
    del block.bn
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    image = torch.rand(1, 3, 4, 4)
    assert torch.equal(loaded(image), block(image))


def test_blocks_are_pickled_by_the_path_of_the_file_format():
    for name in ("Conv", "DWConv", "C3", "C3TR", "SPPF", "GhostConv", "Concat", "Focus", "CrossConv"):
        assert getattr(common, name).__module__ == "models.common"


def test_names_of_other_modules_are_found_on_request():
    assert common.DetectMultiBackend.__name__ == "DetectMultiBackend"
    with pytest.raises(AttributeError, match="no attribute 'Convolution'"):
        _ = common.Convolution
