"""Configurations, the detection head and the detection model, against figures measured on YOLOv5 v6.2."""

from __future__ import annotations

import copy
import io
import json
import math

import numpy as np
import pytest
import torch

from models import inspection
from models.configuration import find_config, read_config
from models.head import Detect
from models.parser import parse_model, resolve_word, scaled_depth, scaled_width
from models.tta import scale_img
from models.yolo import DetectionModel, Model
from utils.errors import InputError, MissingFileError
from utils.storage.files import ROOT, read_yaml, write_yaml

SIZES = sorted(path.name for path in (ROOT / "models").rglob("yolo*.yaml"))
PARAMETERS = {
    "yolov5n.yaml": 1872157, "yolov5s.yaml": 7235389, "yolov5m.yaml": 21190557, "yolov5l.yaml": 46563709,
    "yolov5x.yaml": 86749405, "yolov5n6.yaml": 3246940, "yolov5s6.yaml": 12626620, "yolov5m6.yaml": 35731932,
    "yolov5l6.yaml": 76770172, "yolov5x6.yaml": 140794780, "yolov5-p2.yaml": 47493372, "yolov5-p34.yaml": 5331518,
    "yolov5-p6.yaml": 76770172, "yolov5-p7.yaml": 144281723, "yolov5-fpn.yaml": 41117565,
    "yolov5-panet.yaml": 46563709, "yolov5-bifpn.yaml": 46825853, "yolov5s-ghost.yaml": 3897605,
    "yolov5s-transformer.yaml": 7235645, "yolov3.yaml": 61949149, "yolov3-spp.yaml": 62998749,
    "yolov3-tiny.yaml": 8852366,
}  # fmt: skip
LAYER_PARAMETERS = {
    "yolov5n": "1760 4672 4800 18560 29184 73984 156928 295424 296448 164608 33024 0 0 90880 8320 0 0 22912 36992 0 "
    "74496 147712 0 296448 115005",
    "yolov5s-ghost": "3520 10144 9656 38720 40160 151168 165024 597248 564672 656896 69248 0 0 208608 18240 0 0 53104 "
    "75584 0 143072 298624 0 564672 229245",
    "yolov3-tiny": "464 0 4672 0 18560 0 73984 0 295424 0 1180672 0 0 4720640 262656 1180672 33024 0 0 885248 196350",
}
SAVED = {
    "yolov5n": [4, 6, 10, 14, 17, 20, 23],
    "yolov5-bifpn": [4, 6, 6, 10, 14, 17, 20, 23],
    "yolov5-fpn": [4, 6, 10, 14, 18],
    "yolov5-p2": [2, 4, 6, 10, 14, 18, 21, 24, 27, 30],
    "yolov5-p7": [4, 6, 8, 10, 14, 18, 22, 26, 29, 32, 35, 38, 41],
    "yolov3": [6, 8, 14, 15, 21, 22, 27],
    "yolov3-tiny": [8, 14, 15, 19],
}
TINY = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[8, 8, 16, 16], [32, 32, 64, 64]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[1, 2], 1, "Detect", ["nc", "anchors"]]],
}


def changed(**entries: object) -> dict:
    return {**copy.deepcopy(TINY), **entries}


@pytest.fixture(scope="module")
def nano() -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel("yolov5n.yaml").eval()


# -- configurations ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_every_configuration_has_the_measured_size(name):
    config = read_config(name)
    with torch.device("meta"):  # shapes without weights
        layers, _ = parse_model(config, [3])
    if "mask" in name:
        assert config == {**read_config(name.replace("_mask", "")), "nc": 2}
    else:
        assert sum(layer.np for layer in layers) == PARAMETERS[name]
    assert [layer.i for layer in layers] == list(range(len(layers)))


@pytest.mark.parametrize("name", LAYER_PARAMETERS)
def test_layer_sizes(name):
    with torch.device("meta"):
        layers, _ = parse_model(read_config(f"{name}.yaml"), [3])
    assert " ".join(str(layer.np) for layer in layers) == LAYER_PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAVED)
def test_saved_layers(name):
    with torch.device("meta"):
        assert parse_model(read_config(f"{name}.yaml"), [3])[1] == SAVED[name]


@pytest.mark.slow
def test_states_of_all_architectures(shared_folder):
    recorded = json.loads((shared_folder / "conformance/v6.2/architectures.json").read_text())
    for name, expected in recorded.items():
        with torch.device("meta"):
            layers, saved = parse_model(read_config(name), [3])
        state = [[f"model.{key}", list(tensor.shape)] for key, tensor in layers.state_dict().items()]
        assert state == expected["state"], name
        assert saved == expected["save"], name
        assert [layer.type for layer in layers] == expected["types"], name
        assert [layer.f for layer in layers] == expected["from"], name


def test_anchor_sets():
    anchors = read_yaml(ROOT / "models/hub/anchors.yaml")
    assert anchors["anchors_p5_640"] == read_config("yolov5n.yaml")["anchors"]
    assert anchors["anchors_p6_1280"] == read_config("yolov5n6.yaml")["anchors"]
    assert {name: len(levels) for name, levels in anchors.items()} == {
        "anchors_p5_640": 3, "anchors_p6_640": 4, "anchors_p6_1280": 4, "anchors_p6_1920": 4,
        "anchors_p7_640": 5, "anchors_p7_1280": 5, "anchors_p7_1920": 5,
    }  # fmt: skip
    assert [sum(map(sum, levels)) for levels in anchors.values()] == [1760, 3259, 6656, 9981, 4459, 9004, 13508]


def test_configurations_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("yolov5s.yaml") == ROOT / "models/yolov5s.yaml"
    assert find_config("yolov5s6.yaml") == ROOT / "models/hub/yolov5s6.yaml"
    assert find_config("models/hub/yolov3.yaml") == ROOT / "models/hub/yolov3.yaml"
    (tmp_path / "yolov5s.yaml").write_text((ROOT / "models/yolov5n.yaml").read_text())
    assert read_config("yolov5s.yaml")["width_multiple"] == 0.25  # the current folder comes first
    with pytest.raises(MissingFileError, match=r"no model configuration yolov9\.yaml"):
        DetectionModel("yolov9.yaml")


@pytest.mark.parametrize(("number", "repeats"), [(3, [1, 2, 3, 4]), (6, [2, 4, 6, 8]), (9, [3, 6, 9, 12])])
def test_depth(number, repeats):
    assert [scaled_depth(number, gain) for gain in (0.33, 0.67, 1.0, 1.33)] == repeats
    assert scaled_depth(1, 4.0) == 1


@pytest.mark.parametrize(("channels", "widths"), [(64, [16, 32, 48, 80]), (256, [64, 128, 192, 320])])
def test_width(channels, widths):
    assert [scaled_width(channels, gain) for gain in (0.25, 0.5, 0.75, 1.25)] == widths


@pytest.mark.parametrize(("word", "value"), [
    ("nc", 7), ("None", None), ("False", False), ("1+0", 1), ("-2 * (3 - 1)", -4), ("nc + 5", 12), ("0.5", 0.5),
    ("nearest", "nearest"), ("nn.ReLU", torch.nn.ReLU), ("nn.functional", "nn.functional"), ("8/0", "8/0"),
    ("__import__('os').getcwd()", "__import__('os').getcwd()"), ("9**9", "9**9"), ("torch", "torch"),
])  # fmt: skip
def test_words_are_looked_up_and_never_run(word, value):
    assert resolve_word(word, {"nc": 7, "anchors": 3}) == value


def test_the_width_of_the_head_is_never_scaled():
    with torch.device("meta"):
        layers, _ = parse_model({**read_config("yolov5n6.yaml"), "nc": 251}, [3])  # 3 * (251 + 5) = 768
    assert layers[7].conv.out_channels == 768


def test_rarer_rows():
    rows = [
        [-1, 1, "Focus", [16, 3]],
        [-1, 2, "Bottleneck", [16]],
        [-1, 1, "Contract", [2]],
        [-1, 1, "Expand", [2]],
        [-1, 1, "nn.BatchNorm2d", []],
        [-1, 1, "nn.ConvTranspose2d", [8, 2, 2]],
        [-1, 1, "nn.MaxPool2d", [2, 2]],
        [-1, 3, "C3SPP", [16, [3, 5]]],
    ]
    config = changed(backbone=rows, head=[[[-3, -1], 1, "Detect", ["nc", "anchors"]]])
    config["backbone"][7][1] = 1
    model = DetectionModel(config)
    assert isinstance(model.model[1], torch.nn.Sequential)
    assert len(model.model[1]) == 2
    assert model.model[1].type == "models.common.Bottleneck"
    assert model.save == [5]
    assert model.stride.tolist() == [1, 2]


@pytest.mark.parametrize(("entries", "message"), [
    ({"nc": 0}, "nc must be a whole number above 0, got 0"),
    ({"nc": "80"}, "nc must be"),
    ({"width_multiple": None}, "width_multiple must be a number above 0"),
    ({"backbone": "Conv"}, "backbone must be a list of rows"),
    ({"anchors": [[1, 2, 3]]}, "anchors must be a count per level"),
    ({"anchors": [[1, 2], [1, 2, 3, 4]]}, "anchors must be a count per level"),
    ({"anchors": []}, "anchors must be a count per level"),
    ({"activaton": "nn.ReLU()"}, "the given mapping: unknown key 'activaton'; did you mean activation?"),
    ({"x" * 9999: 1}, "unknown key 'xxx.*; known are nc, depth_multiple, .*, activation, channels, modules"),
    ({"anchors": [[8, 8, 16, 16]]}, "anchors for 1 levels, but Detect reads 2 layers"),
    ({"backbone": [[-1, 1, "Convolution", [8]]]}, "layer 0 .*unknown module 'Convolution'"),
    ({"backbone": [[-1, 1, "os.system", ["true"]]]}, "unknown module"),
    ({"backbone": [[-1, 1, "Conv"]]}, "layer 0 .*expected .from, number, module, arguments"),
    ({"backbone": [[-1, 1.5, "Conv", [8]]]}, "number must be a whole number"),
    ({"backbone": [[-1, 1, "Conv", 8]]}, "arguments a list"),
    ({"backbone": [[0, 1, "Conv", [8]]]}, "reads from 0, which is not a layer before it"),
    ({"backbone": [[-1, 1, "Conv", [8]], [-3, 1, "Conv", [8]]]}, "layer 1 .*reads from -3"),
    ({"backbone": [[-1, 1, "Conv", [8]], [[0, 0], 1, "Conv", [8]]]}, "layer 1 .*it reads one layer"),
    ({"backbone": [[-1, 1, "Conv", ["wide"]]]}, "layer 0"),
    ({"backbone": [[-1, 1, "Conv", []]]}, "layer 0"),
    ({"backbone": [[-1, 1, "nn.MaxPool2d", []]]}, "layer 0 .*kernel_size"),
    ({"head": [[-1, 1, "Conv", [8]]]}, "last row of a detection model must be Detect, got Conv"),
    ({"head": [[-1, 1, "Conv", [8, 3, 2]], [[0, 1, 2], 1, "Concat", [1]], [[1, 2], 1, "Detect", ["nc", "anchors"]]]},
     "do not fit together"),
])  # fmt: skip
def test_bad_configurations_are_told_in_one_line(entries, message):
    with pytest.raises(InputError, match=message) as caught:
        DetectionModel(changed(**entries))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_configuration(tmp_path):
    file = tmp_path / "list.yaml"
    file.write_text("- 1\n")
    with pytest.raises(InputError, match="is not a model configuration"):
        DetectionModel(file)
    file.write_text("nc: 80\n")
    with pytest.raises(InputError, match="it lacks depth_multiple, width_multiple, anchors, backbone, head"):
        DetectionModel(file)
    with pytest.raises(InputError, match="it lacks nc"):
        DetectionModel(ROOT / "models/hub/anchors.yaml")
    write_yaml(file, changed() | {"activations": "nn.ReLU()"})
    with pytest.raises(InputError, match=r"list\.yaml: unknown key 'activations'; did you mean activation\?"):
        DetectionModel(file)


# -- construction ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fresh_model_has_the_documented_state(nano):
    assert nano.stride.tolist() == [8, 16, 32]
    assert nano.names == [str(index) for index in range(80)]
    assert (nano.yaml_file, nano.yaml["ch"], nano.inplace, nano.save) == ("yolov5n.yaml", 3, True, SAVED["yolov5n"])
    norms = [module for module in nano.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    assert all(norm.num_batches_tracked == 1 and torch.all((norm.running_var - 0.9).abs() < 1e-6) for norm in norms)
    assert all(module.inplace for module in nano.modules() if isinstance(module, torch.nn.SiLU))
    expected = torch.tensor([[1.25, 1.625], [2, 3.75], [4.125, 2.875]])
    assert torch.equal(nano.model[-1].anchors[0], expected)
    assert list(nano.state_dict())[-7] == "model.24.anchors"
    assert Model is DetectionModel


def test_overrides(heard):
    given = changed()
    model = DetectionModel(given, nc=5, anchors=4.4)
    assert (model.yaml["nc"], model.yaml["anchors"], model.model[-1].na, model.model[-1].nc) == (5, 4, 4, 5)
    assert given == TINY  # the caller's mapping is not written to
    assert not hasattr(model, "yaml_file")
    assert "Overriding model.yaml nc=2 with nc=5" in heard.messages
    pixels = model.model[-1].anchors * model.stride.view(-1, 1, 1)
    assert pixels.tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7]]] * 2
    assert DetectionModel(changed(ch=1)).model[0].conv.in_channels == 1
    assert DetectionModel(changed(inplace=False)).model[-1].inplace is False


def test_anchors_in_the_wrong_order_are_turned():
    model = DetectionModel(changed(anchors=TINY["anchors"][::-1]))
    assert torch.equal(model.model[-1].anchors, DetectionModel(TINY).model[-1].anchors)


@pytest.mark.parametrize(("nc", "expected"), [(1, 13.304685), (2, -0.510827), (20, -3.455265), (80, -4.880273)])
def test_biases_start_from_the_prior(nc, expected):
    head = Detect(nc, [[1, 1], [2, 2]], [4, 4])
    head.stride = torch.tensor([8.0, 64.0])
    for convolution in head.m:
        torch.nn.init.zeros_(convolution.bias)
    head.initialize_biases()
    for convolution, objectness in zip(head.m, (-6.684612, -2.525729), strict=True):
        torch.testing.assert_close(convolution.bias[:4], torch.zeros(4))
        assert convolution.bias[4].item() == pytest.approx(objectness, abs=1e-5)
        torch.testing.assert_close(convolution.bias[5:], torch.full((nc,), expected), atol=1e-4, rtol=0)
    frequencies = torch.arange(1.0, nc + 1)
    torch.nn.init.zeros_(head.m[0].bias)
    head.initialize_biases(frequencies)
    torch.testing.assert_close(head.m[0].bias[5:], (frequencies / frequencies.sum()).log())


TABLE = {  # line of the log: text
    0: "\n                 from  n    params  module                                  arguments",
    1: "  0                -1  1      1760  models.common.Conv                      [3, 16, 6, 2, 2]",
    5: "  4                -1  2     29184  models.common.C3                        [64, 64, 2]",
    13: " 12           [-1, 6]  1         0  models.common.Concat                    [1]",
}


def test_build_table(heard):
    DetectionModel("yolov5n.yaml")
    lines = heard.messages
    assert {index: lines[index].rstrip() for index in TABLE} == TABLE
    assert {len(lines[index]) for index in (1, 5, 13)} == {36 + 40 + 30}
    assert lines[-2:] == ["YOLOv5n summary: 270 layers, 1872157 parameters, 1872157 gradients, 4.6 GFLOPs", ""]


# -- the head ----------------------------------------------------------------------------------------------------------


def ready_head(**attributes: object) -> Detect:
    head = Detect(3, [[10, 13, 16, 30], [30, 61, 62, 45]], [4, 4])
    head.stride = torch.tensor([8.0, 16.0])
    head.anchors /= head.stride.view(-1, 1, 1)
    for name, value in attributes.items():
        setattr(head, name, value)
    return head.eval()


def test_zero_logits_are_cell_centres_with_the_anchors_sizes():
    head = ready_head()
    for convolution in head.m:
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    with torch.no_grad():
        boxes, raw = head([torch.rand(1, 4, 2, 3), torch.rand(1, 4, 1, 1)])
    assert [map_.shape for map_ in raw] == [(1, 2, 2, 3, 8), (1, 2, 1, 1, 8)]
    assert boxes.shape == (1, 14, 8)
    assert boxes[0, :3, :4].tolist() == [[4, 4, 10, 13], [12, 4, 10, 13], [20, 4, 10, 13]]
    assert boxes[0, 3, :4].tolist() == [4, 12, 10, 13]  # the next row
    assert boxes[0, 6, :4].tolist() == [4, 4, 16, 30]  # the next anchor
    assert boxes[0, 12, :4].tolist() == [8, 8, 30, 61]  # the next level
    assert torch.all(boxes[..., 4:] == 0.5)
    assert head.grid[0].shape == (1, 2, 2, 3, 2)
    assert head.grid[0][0, 0, 0].tolist() == [[-0.5, -0.5], [0.5, -0.5], [1.5, -0.5]]


def test_decoding_follows_the_formula():
    head = ready_head()
    with torch.no_grad():
        boxes, raw = head([torch.randn(2, 4, 5, 4), torch.randn(2, 4, 3, 2)])
    row = raw[0][1, 1, 3, 2].sigmoid().tolist()  # picture 1, anchor 1, row 3, column 2
    expected = [
        (2 * row[0] + 1.5) * 8,
        (2 * row[1] + 2.5) * 8,
        (2 * row[2]) ** 2 * 16,
        (2 * row[3]) ** 2 * 30,
        *row[4:],
    ]
    assert boxes[1, 1 * 20 + 3 * 4 + 2].tolist() == pytest.approx(expected, rel=1e-5)


def test_both_ways_of_decoding_agree_and_training_returns_raw_maps():
    head = ready_head()
    maps = [torch.randn(2, 4, 4, 4), torch.randn(2, 4, 2, 2)]
    with torch.no_grad():
        expected, raw = head(list(maps))
        head.inplace = False
        torch.testing.assert_close(head(list(maps))[0], expected)
        head.export = True
        assert len(head(list(maps))) == 1
        head.train()
        assert all(torch.equal(one, other) for one, other in zip(head(list(maps)), raw, strict=True))


def test_gradients_pass_the_decoding():
    head = ready_head()
    image = torch.randn(1, 4, 4, 4, requires_grad=True)
    head([image, torch.randn(1, 4, 2, 2)])[0].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_grids_follow_size_dtype_and_inference_mode(nano):
    model = copy.deepcopy(nano)
    head = model.model[-1]
    with torch.inference_mode():
        model(torch.rand(1, 3, 64, 96))
    assert head.grid[0].shape == (1, 3, 8, 12, 2)
    boxes = model(torch.rand(1, 3, 64, 96))[0]  # with gradients, after a pass without
    boxes.sum().backward()
    model.double()
    assert (head.stride.dtype, head.grid[0].dtype, head.anchor_grid[0].dtype) == (torch.double,) * 3
    assert model(torch.rand(1, 3, 96, 64).double())[0].dtype == torch.double
    assert head.grid[0].shape == (1, 3, 12, 8, 2)
    model.half()
    assert head.stride.dtype == torch.half
    assert model.stride.dtype == torch.float  # as in v6.2


def test_a_head_without_strides_says_so():
    with pytest.raises(RuntimeError, match="no strides yet"):
        ready_head(stride=None)([torch.rand(1, 4, 2, 2), torch.rand(1, 4, 1, 1)])


# -- passes ------------------------------------------------------------------------------------------------------------


def test_fusing_keeps_the_output(nano):
    model = copy.deepcopy(nano)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)[0]
        assert model.fuse() is model
        torch.testing.assert_close(model(image)[0], expected, rtol=1e-3, atol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert len(model.state_dict()) == 121
    model.fuse()  # nothing is left to fold
    assert len(model.state_dict()) == 121


@pytest.mark.parametrize(("shape", "expected"), [((64, 96), None), ((640, 640), 45147), ((320, 448), 16254)])
def test_augmented_boxes(nano, shape, expected):
    if expected is None:
        with torch.no_grad():
            boxes, rest = nano(torch.rand(2, 3, *shape), augment=True)
        assert rest is None
        assert boxes.shape[0] == 2
        assert boxes.shape[2] == 85
        return
    model = DetectionModel({**changed(), "anchors": read_config("yolov5n.yaml")["anchors"], "backbone": [
        [-1, 1, "nn.MaxPool2d", [8, 8]], [-1, 1, "nn.MaxPool2d", [2, 2]], [-1, 1, "nn.MaxPool2d", [2, 2]],
    ], "head": [[[0, 1, 2], 1, "Detect", ["nc", "anchors"]]]}).eval()  # fmt: skip
    with torch.no_grad():
        assert model(torch.rand(1, 3, *shape), augment=True)[0].shape == (1, expected, 7)


def test_augmentation_mirrors_boxes_back(monkeypatch):
    """A predictor that reports where the brightest column is must say the same in every pass."""
    from models import tta

    monkeypatch.setattr(tta, "PASSES", ((1.0, False), (1.0, True)))
    image = torch.zeros(1, 3, 64, 64)
    image[..., 10] = 1

    def brightest(picture: torch.Tensor) -> torch.Tensor:
        x = picture[0, 0].sum(0).argmax().item() + 0.5
        return torch.tensor([[[x, 5.0, 2.0, 3.0, 0.9]] * 21])

    boxes = tta.predict_augmented(brightest, image, 32, [8, 16, 32])
    assert torch.all(boxes[..., 0] == 10.5)
    assert boxes.shape[1] == (21 - 1) + (21 - 16)


def test_scaled_images_are_padded_with_grey():
    image = torch.rand(1, 3, 100, 64)
    assert scale_img(image, 1.0) is image
    scaled = scale_img(image, 0.83)
    assert scaled.shape == (1, 3, 96, 64)
    assert torch.all(scaled[..., 83:, :] == 0.447)
    assert torch.all(scaled[..., 53:] == 0.447)
    assert scaled[..., :83, :53].std() > 0.1


def test_profile_logs_every_layer(heard):
    model = DetectionModel(TINY).eval()
    heard.clear()
    with torch.no_grad():
        model(torch.rand(1, 3, 64, 64), profile=True)
    assert heard.messages[0].split() == ["time", "(ms)", "GFLOPs", "params", "module"]
    assert [message.split()[-1] for message in heard.messages[1:]] == [
        "models.common.Conv", "models.common.Conv", "models.common.Conv", "models.yolo.Detect", "Total",
    ]  # fmt: skip


@pytest.mark.slow
def test_visualize_writes_a_picture_and_the_maps_of_each_layer(tmp_path):
    model = DetectionModel(TINY).eval()
    with torch.no_grad():
        model(torch.rand(1, 3, 64, 64), visualize=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(f"stage{i}_Conv_features.{suffix}" for i in range(3) for suffix in ("npy", "png"))
    assert np.load(tmp_path / "stage2_Conv_features.npy").shape == (16, 8, 8)


def test_pickles_name_stock_paths_only(nano):
    file = io.BytesIO()
    torch.save(nano, file)
    text = file.getvalue()
    for name in (b"models.yolo\nDetectionModel", b"models.yolo\nDetect", b"models.common\nC3"):
        assert name in text
    for name in (b"models.parser", b"models.widths", b"models.tta", b"cbuiltins\ngetattr"):
        assert name not in text
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(image)[0], nano(image)[0])


def test_released_network(shared_folder):
    """The figures of the fact sheet for yolov5n of release v6.1: raw maps, decoded boxes, fused and augmented."""
    from models.loading import load_checkpoint

    model = load_checkpoint(shared_folder / "weights/yolov5n.pt")["model"].float().eval()
    image = (0.5 + 0.5 * torch.sin(0.01 * torch.arange(3 * 64 * 64, dtype=torch.float64))).float().view(1, 3, 64, 64)
    with torch.no_grad():
        boxes, raw = model(image)
        augmented = model(image, augment=True)[0]
        fused = model.fuse()(image)[0]
    sums = [map_.double().sum().item() for map_ in raw]
    assert sums == pytest.approx([-88075.10, -22495.53, -5973.81], abs=0.5)
    assert boxes.double().sum().item() == pytest.approx(34284.87, abs=0.2)
    assert fused.double().sum().item() == pytest.approx(34284.87, abs=0.2)
    assert augmented.shape == (1, 552, 85)
    assert augmented.double().sum().item() == pytest.approx(83393.52, abs=0.5)
    assert boxes[0, :, 4].argmax().item() == 240


# -- the command -------------------------------------------------------------------------------------------------------


def test_command_builds_and_fuses(heard):
    inspection.main(["--cfg", "yolov5n.yaml", "--device", "cpu"])
    lines = [message for message in heard.messages if "summary" in message]
    assert ["213 layers" in line for line in lines] == [False, True]


def test_command_reports_bad_input(monkeypatch):
    with pytest.raises(MissingFileError):
        inspection.main(["--cfg", "absent.yaml"])
    with pytest.raises(InputError, match="--batch-size must be 1 or more"):
        inspection.main(["--batch-size", "0"])
    monkeypatch.setattr(inspection, "DetectionModel", refuse)
    with pytest.raises(InputError, match=r"models/hub/yolov3-spp\.yaml: no; models/hub/yolov3-tiny\.yaml: no"):
        inspection.main(["--test"])


def refuse(cfg: object) -> None:
    raise InputError("no")


def test_profile_of_the_command():
    times = inspection.profile(DetectionModel(TINY), torch.rand(1, 3, 64, 64))
    assert all(math.isfinite(time) and time > 0 for time in times)


def test_a_model_that_has_run_changes_its_memory_format():
    model = DetectionModel("yolov5n_mask.yaml").eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(image)[0]
        after = model.to(memory_format=torch.channels_last)(image)[0]
    assert torch.allclose(before, after, atol=1e-3)
