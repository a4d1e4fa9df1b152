"""Random YAML texts and command lines: valid ones, changed in a few places as hands and hostile hands change them."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import yaml
from torch import nn

from models import common
from utils.commands.options import parser_for
from utils.storage.files import ROOT
from utils.training.hyperparameters import HYPERPARAMETER_RANGES

TINY = {
    "nc": 2, "depth_multiple": 0.33, "width_multiple": 0.5,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45], [116, 90, 156, 198]],
    "backbone": [[-1, 1, "Conv", [16, 3, 8]], [-1, 1, "Conv", [16, 3, 2]], [-1, 3, "C3", [16]],
                 [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "SPPF", [32, 5]]],
    "head": [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, 2], 1, "Concat", [1]], [-1, 1, "C3", [16, False]],
             [[0, 7, 4], 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip
NUMBERS = [
    0, 1, -1, 2, 3, 7, 64, 1000, 10**6, 10**9, 10**12, 10**18, 2**31, 2**63, 10**60, -(10**18), 0.5, -0.5, 1e-9,
    1e9, 1e300,
    float("inf"), float("-inf"), float("nan"),
]  # fmt: skip
WORDS = [
    "", " ", "nc", "anchors", "None", "nc + 5", "8/0", "9" * 90, "-" * 20_000 + "1", "(" * 5000, "1+" * 5000 + "1",
    "__import__('os')", "nn.ReLU", "nearest", "same", "x" * 5000, "~nobody", "../..", "人", "a\nb",
    "\x1b[31m", "%s", "{0}",
    "-1", "1e5", "C3", "nn.Module", "a/b", "/", ".",
]  # fmt: skip
CONTAINERS: list[Any] = [
    [],
    {},
    [[]],
    [None],
    [1],
    [1, 2],
    [[1, 2]],
    {"a": 1},
    {0: "a"},
    {"a": {"b": [1]}},
    [True, "x"],
    [0] * 500,
]
ODD: list[Any] = [*NUMBERS, *WORDS, *CONTAINERS, None, True, False]
MODULES = sorted(
    [f"nn.{name}" for name in dir(nn) if isinstance(getattr(nn, name), type)]
    + [name for name in dir(common) if isinstance(getattr(common, name), type)]
)
TOKENS = [
    "- ", ": ", "[", "]", "{", "}", "&a ", "*a", "!!int ", "!!bool ", "!x ", "? ", "|\n", ">\n", "\t", "\n", "  ",
    "---\n", "...\n",
    "%YAML 1.1\n", "<<: ", "'", '"', "#", "\0", "\ufeff", "\u2028", "2001-99-99", "~", "=", "@", "`", "\\", ",", "é",
]  # fmt: skip


def odd_value(rng: random.Random) -> Any:
    """A value that is seldom right."""
    return copy.deepcopy(rng.choice(rng.choice([NUMBERS, WORDS, CONTAINERS, ODD])))


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Each container with each of its keys, from the outside to the inside."""
    if isinstance(content, (dict, list)):
        for key in list(content) if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from _places(content[key])


def change(rng: random.Random, content: Any) -> None:
    """Replace, remove, double or move one value, in place."""
    places = list(_places(content))
    if not places:
        return
    inside, key = rng.choice(places)
    action = rng.random()
    if action < 0.6:
        inside[key] = odd_value(rng)
    elif action < 0.75:
        del inside[key]
    elif isinstance(inside, list):
        inside.insert(rng.randrange(len(inside) + 1), copy.deepcopy(inside[key]))
    else:
        inside[rng.choice([f"{key}x", 5, None, True, "nc"])] = copy.deepcopy(inside[key])


def as_text(rng: random.Random, content: Any) -> bytes:
    """YAML of ``content``; one text in four is damaged."""
    text = yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, default_flow_style=rng.choice([None, False, True])
    )
    if rng.random() < 0.75:
        return text.encode()
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text) + 1)
        cut = rng.choice([0, 0, 1, 5])
        text = text[:place] + rng.choice(TOKENS) * rng.choice([1, 1, 1, 50]) + text[place + cut :]
    damaged = text.encode(rng.choice(["utf-8"] * 6 + ["utf-16", "gbk", "latin-1"]), errors="replace")
    if rng.random() < 0.2 and damaged:
        place = rng.randrange(len(damaged))
        damaged = damaged[:place] + bytes([rng.randrange(256)]) + damaged[place + 1 :]
    return damaged


def model_text(rng: random.Random) -> bytes:
    """A model configuration: random rows of the right form, or a good one with one to four faults."""
    if rng.random() < 0.3:
        return as_text(rng, _random_network(rng))
    content: Any = copy.deepcopy(TINY)
    if rng.random() < 0.3:
        content = yaml.safe_load((ROOT / "models/yolov5n_mask.yaml").read_text(encoding="utf-8"))
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        rows = [*_rows(content, "backbone"), *_rows(content, "head")]
        if rng.random() < 0.5 and rows:
            _change_row(rng, rng.choice(rows))
        else:
            change(rng, content)
    return as_text(rng, content)


def _random_network(rng: random.Random) -> dict[str, Any]:
    """Rows that are written correctly, with numbers of any size; most of them fit together."""

    def size(most: float) -> int:
        return max(int(10 ** rng.uniform(0, rng.choice([2, 2, 3, most]))), 1)

    rows = []
    for index in range(rng.randint(1, 12)):
        kind = rng.choice(["Conv", "Conv", "C3", "SPPF", "Focus", "GhostConv", "Bottleneck", "C3TR", "nn.Upsample",
                           "Concat", "nn.MaxPool2d", "Contract", "Expand", "MixConv2d", "nn.ConvTranspose2d", "DWConv",
                           "CrossConv"])  # fmt: skip
        stride = rng.choice([1, 2, 2, 2, size(3)])
        values = {
            "Conv": [size(6), rng.choice([1, 3, size(4)]), stride],
            "nn.Upsample": [None, rng.choice([2, 2, size(4)]), "nearest"],
            "SPPF": [size(6), rng.choice([5, size(3)])], "Concat": [1],
            "nn.MaxPool2d": [rng.choice([2, 3, size(3)]), stride],
            "Contract": [rng.choice([2, 4])], "Expand": [rng.choice([2, 4])], "DWConv": [size(6), 3, stride],
            "nn.ConvTranspose2d": [size(6), rng.choice([2, 4, size(3)]), stride],
        }.get(kind, [size(6)])  # fmt: skip
        source: Any = [-1, rng.randrange(index)] if kind == "Concat" and index else -1
        rows.append([source, rng.choice([1, 1, 3, size(6)]), kind, values])
    levels = sorted(rng.sample(range(len(rows)), min(len(rows), rng.randint(1, 3))))
    anchors = rng.choice([3, size(4), [[10, 13, 16, 30]] * len(levels)])
    return {
        "nc": rng.choice([1, 2, 80, size(7)]), "depth_multiple": rng.choice([0.33, 1.0, 10 ** rng.uniform(-2, 4)]),
        "width_multiple": rng.choice([0.25, 1.0, 10 ** rng.uniform(-2, 4)]), "anchors": anchors, "backbone": rows,
        "head": [[levels, 1, "Detect", ["nc", "anchors"]]],
    }  # fmt: skip


def _rows(content: Any, key: str) -> list[list[Any]]:
    rows = content.get(key) if isinstance(content, dict) else None
    return [row for row in rows if isinstance(row, list) and len(row) == 4] if isinstance(rows, list) else []


def _change_row(rng: random.Random, row: list[Any]) -> None:
    kind = rng.randrange(5)
    if kind == 0:
        row[0] = rng.choice([-1, 0, 1, 3, -2, -9, 50, [-1, 0], [0, 1, 2], [], "x", None, [[1]], 2**70])
    elif kind == 1:
        row[1] = rng.choice([1, 2, 3, 9, 100, 500, 10**6, 10**18, 0, -1, 1.5, "3", None])
    elif kind == 2:
        row[2] = rng.choice(MODULES)
    elif kind == 3:
        row[2] = rng.choice(MODULES)
        row[3] = [
            rng.choice([1, 2, 3, 8, 16, 64, "nc", None, True, [3, 5], odd_value(rng)]) for _ in range(rng.randint(0, 4))
        ]
    elif isinstance(row[3], list) and row[3]:
        row[3][rng.randrange(len(row[3]))] = rng.choice([0, -1, 10**5, 10**8, 1.5, odd_value(rng)])


def data_text(rng: random.Random) -> bytes:
    """A description of a data set with one to three faults; it downloads nothing."""
    content: Any = {"path": ".", "train": "images", "val": ["images"], "nc": 3, "names": ["a", "b", "c"]}
    if rng.random() < 0.5:
        content["names"] = {0: "a", 1: "b", 2: "c"}
    if rng.random() < 0.3:
        del content["nc"]
    if rng.random() < 0.2:
        content["download"] = rng.choice([5, [1], {"a": 1}, "rm -rf nothing", "print(1)", True])
    for _ in range(rng.randint(1, 3)):
        change(rng, content)
    return as_text(rng, content)


def hyp_text(rng: random.Random) -> bytes:
    """Hyperparameters with one to three faults."""
    content: Any = {name: float(low) for name, (low, _) in HYPERPARAMETER_RANGES.items()} | {"anchors": 3}
    for _ in range(rng.randint(1, 3)):
        change(rng, content)
    return as_text(rng, content)


def arguments(rng: random.Random, options_class: type, ending: list[str]) -> list[str]:
    """Flags of a command with odd values, and ``ending``, whose values stop the command before its work."""
    actions = {action.dest: action for action in parser_for(options_class, "")._actions}
    words: list[str] = []
    for field in rng.sample(dataclasses.fields(options_class), rng.randint(1, 4)):
        action = actions[field.name]
        flag = rng.choice(action.option_strings)
        flag = flag[: rng.randint(4, len(flag))] if rng.random() < 0.1 and len(flag) > 4 else flag
        words.append(flag)
        count = rng.choice([1, 1, 1, 2, 3]) if action.nargs in ("+", "?") else (0 if action.nargs == 0 else 1)
        count = count if rng.random() < 0.95 else rng.randint(0, 2)
        words += [_word(rng, action) for _ in range(count)]
    return [*words, *ending] if rng.random() < 0.9 else [*ending, *words]


def _word(rng: random.Random, action: Any) -> str:
    if action.choices and rng.random() < 0.6:
        return str(rng.choice(list(action.choices)))
    if action.type in (int, float) and rng.random() < 0.7:
        return str(rng.choice([*NUMBERS, "1_0", "0x10", "1e3", "٣", "9" * 5000]))
    return str(odd_value(rng)).replace("\0", "")[:9000]
