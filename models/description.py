"""The configuration of a network as it is now, which may differ from the YAML that it was built from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.activations import ACTIVATIONS, DEFAULT, module_text, parse_activation, set_activation
from models.blocks import Conv
from models.configuration import KEYS, read_config
from models.module_settings import differences, measure_modules, set_norms
from models.parser import parse_model
from models.widths import apply_widths, differing_widths
from models.yolo import DetectionModel
from utils.errors import InputError, one_line
from utils.log import warnings_only

OWN_KEYS = ("activation", "channels", "modules")  # what the rows do not express


def describe(model: DetectionModel) -> dict[str, Any]:
    """A configuration from which ``DetectionModel`` rebuilds ``model``, except for its weights and names.

    It is ``model.yaml`` if that is complete. Otherwise ``activation``, ``channels`` and ``modules`` are measured, and
    the anchors are those of the head, in pixels. Other programs' keys in it, which mean nothing here, are left out.

    Raises:
        InputError: the model has no configuration, or a difference from it that no configuration can express.
    """
    if not isinstance(getattr(model, "yaml", None), Mapping):
        raise InputError("it has no configuration (its 'yaml' is missing)")
    try:
        described = read_config(
            _with_head(model, deepcopy({key: model.yaml[key] for key in KEYS if key in model.yaml}))
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"its configuration (yaml) cannot be used ({one_line(error)})") from error
    if not _first_difference(described, model):
        return described
    plain = {key: value for key, value in described.items() if key not in OWN_KEYS}
    twin = skeleton(plain)
    activation = _common_activation(model, twin)
    if activation != DEFAULT:
        plain["activation"] = activation
        set_activation(twin, parse_activation(activation) or nn.SiLU())
    widths = differing_widths(model, twin)
    apply_widths(twin, widths)
    modules = measure_modules(model, twin)
    replaced = [path for path, entry in modules.items() if isinstance(entry, str)]
    if widths:
        plain["channels"] = {path: value for path, value in widths.items() if path not in replaced}
    if modules:
        plain["modules"] = modules
    remaining = _first_difference(plain, model)
    if remaining:
        raise InputError(remaining)
    return plain


def describe_file(model: DetectionModel, file: str | Path) -> dict[str, Any]:
    """``describe`` the model of a file, which errors name."""
    try:
        return describe(model)
    except InputError as error:
        raise InputError(
            f"the network in {file} is not the one of its configuration, and none can describe it: {error}; "
            "train with a --cfg that describes it"
        ) from error


def skeleton(config: Mapping[str, Any]) -> nn.Module:
    """The layers of a configuration as ``model`` of a module, without memory for weights (on the meta device)."""
    network = nn.Module()
    with torch.device("meta"), warnings_only():
        network.model, _ = parse_model(config, ch=[config.get("ch", 3)])
    set_norms(network, config.get("modules"))
    return network


def _with_head(model: DetectionModel, config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with the classes and anchors of the model's head."""
    head: Any = model.model[-1]
    config["nc"] = head.nc
    config.setdefault("ch", 3)
    row = config["head"][-1]
    if row[3][1] != "anchors":  # the row has the anchors themselves
        config["head"][-1] = [*row[:3], [row[3][0], "anchors", *row[3][2:]]]
        config["anchors"] = row[3][1]
    try:
        declared = torch.tensor(config["anchors"], dtype=torch.float)  # (levels, 2 * anchors) in pixels
        in_cells = declared / head.stride.float().cpu().view(-1, 1)
        same = torch.equal(in_cells, head.anchors.float().cpu().flatten(1))
    except (RuntimeError, TypeError, ValueError):  # a count, or another shape
        same = False
    if not same:
        config["anchors"] = anchors_in_pixels(head).tolist()
    return config


def anchors_in_pixels(head: Any) -> Tensor:
    """(levels, 2 * anchors) a head's anchors in pixels: w, h, w, h, ..."""
    strides = head.stride.float().to(head.anchors.device)  # (levels,)
    return (head.anchors.float() * strides.view(-1, 1, 1)).flatten(1).cpu()


def _first_difference(config: Mapping[str, Any], model: DetectionModel) -> str:
    """The first difference between a network of ``config`` and ``model``, in words; '' if there is none."""
    twin = skeleton(config)
    for difference in differences(model, twin):
        return difference.words("in the network", "in its configuration")
    ours = _shapes(model)
    theirs = _shapes(twin)
    for name in {**theirs, **ours}:
        got = ours.get(name, "absent")
        expected = theirs.get(name, "absent")
        if got != expected:
            return f"{name} is {got} in the network and {expected} in its configuration"
    if _shared(model) != _shared(twin):
        return "some of its modules share their parameters, which a configuration can express for PReLU alone"
    return ""


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    layers = network.get_submodule("model")
    return {f"model.{name}": tuple(value.shape) for name, value in layers.state_dict().items()}


def _shared(network: nn.Module) -> set[tuple[str, ...]]:
    """Groups of names of one and the same parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.get_submodule("model").named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {tuple(group) for group in names.values() if len(group) > 1}


def _common_activation(model: nn.Module, twin: nn.Module) -> str:
    """The text of the most frequent activation of those convolution blocks that take the default."""
    takers = [path for path, module in twin.named_modules() if isinstance(module, Conv) and type(module.act) is nn.SiLU]
    paths = dict(model.named_modules())
    used: list[nn.Module] = [paths[path].act for path in takers if isinstance(paths.get(path), Conv)]
    known = [module for module in used if ACTIVATIONS.get(type(module).__name__) is type(module)]
    texts = Counter(module_text(module) for module in known)
    for text, count in texts.most_common(1):
        first = next(module for module in known if module_text(module) == text)
        has_own = any(True for _ in first.parameters()) and any(module is not first for module in used)
        return DEFAULT if has_own or not count else text
    return DEFAULT
