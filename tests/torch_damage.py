#!/usr/bin/env python3
"""Damage checkpoints at random and count what happens; a few of each kind are among the tests.

python tests/torch_damage.py --tries 500        # about a minute for each kind
"""

from __future__ import annotations

import argparse
import copy
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from models.loading import attempt_load, load_checkpoint, strip_optimizer
from tests.torch_file_tools import rewrite, tiny_model
from utils.checkpoint import save_checkpoint
from utils.errors import InputError
from utils.training.optim import ModelEMA, smart_optimizer

SLOW = 10.0  # seconds of processor time
ODD = (
    None, True, False, 0, -1, 1, 2**40, -(2**62), 1e308, float("nan"), float("inf"),
    "", "x", "../../x", "x" * 10_000, b"x",
    (), (1,), [], [[]], {}, {"a": 1}, {0: None}, set(), range(3), torch.Size([2]), torch.float16,
)  # fmt: skip


def training_file(path: Path) -> Path:
    """A last.pt, with optimizer and EMA."""
    model = tiny_model()
    optimizer = smart_optimizer(model)
    torch.stack([parameter.sum() for parameter in model.parameters()]).sum().backward()
    optimizer.step()
    state = {
        "epoch": 1, "best_fitness": 0.2, "model": model, "ema": ModelEMA(model).ema, "updates": 4, "wandb_id": None,
        "optimizer": optimizer.state_dict(), "opt": {"epochs": 3}, "date": "2026-01-01T00:00:00",
        "resume": {"python": random.getstate(), "torch": torch.get_rng_state(), "maps": [0.1, 0.2]},
    }  # fmt: skip
    save_checkpoint(state, path)
    return path


# -- kinds of damage ---------------------------------------------------------------------------------------------------


def flip_a_bit(path: Path, chance: random.Random) -> None:
    """One bit anywhere in the file."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))


def cut(path: Path, chance: random.Random) -> None:
    """A part of the file is missing, at its end or within, or filled with zeros."""
    content = bytearray(path.read_bytes())
    start, length = chance.randrange(len(content)), chance.randrange(1, 5000)
    kind = chance.randrange(3)
    if kind == 0:
        content = content[:start]
    elif kind == 1:
        del content[start : start + length]
    else:
        content[start : start + length] = bytes(len(content[start : start + length]))
    path.write_bytes(bytes(content))


def change_the_pickle(path: Path, chance: random.Random) -> None:
    """A few bytes of the pickle, with a checksum that is right."""

    def change(name: str, content: bytes) -> bytes:
        if name != "data.pkl":
            return content
        changed = bytearray(content)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)

    rewrite(path, change)


def change_a_value(path: Path, chance: random.Random) -> None:
    """Some value of the content, of a module too, is exchanged for an odd one or removed, and the file written anew."""
    content = torch.load(path, weights_only=False)
    spots = list(_spots(content))
    for holder, key in (chance.choice(spots) for _ in range(chance.randrange(1, 3))):
        value = copy.copy(chance.choice(ODD))
        if isinstance(holder, dict) and chance.random() < 0.2:
            holder.pop(key, None)
        elif isinstance(holder, list):
            holder[min(key, len(holder) - 1)] = value
        elif isinstance(holder.get(key), torch.Tensor) and chance.random() < 0.7:
            holder[key] = _odd_tensor(holder[key], chance)
        else:
            holder[key] = value
    torch.save(content, path)


def _odd_tensor(tensor: torch.Tensor, chance: random.Random) -> torch.Tensor:
    changed = chance.choice((
        lambda: tensor.detach() * float("nan"), lambda: tensor.detach().flatten(), lambda: tensor.detach().long(),
        lambda: torch.zeros(0), lambda: tensor.detach()[None], lambda: torch.zeros(1).expand(5, 5),
        lambda: -tensor.detach(),
    ))()  # fmt: skip
    floating = isinstance(tensor, nn.Parameter) and changed.is_floating_point()
    return nn.Parameter(changed) if floating else changed


def _spots(value: Any, seen: set[int] | None = None) -> Any:
    """Every (container, key) of the content."""
    seen = set() if seen is None else seen
    inside = vars(value) if isinstance(value, nn.Module) else value
    if not isinstance(inside, dict | list) or id(inside) in seen:
        return
    seen.add(id(inside))
    for key, part in list(inside.items() if isinstance(inside, dict) else enumerate(inside)):
        yield inside, key
        yield from _spots(part, seen)


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "a flipped bit": flip_a_bit,
    "a part is missing": cut,
    "a changed pickle": change_the_pickle,
    "a changed value": change_a_value,
}


# -- what happens ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def results(path: Path) -> list[torch.Tensor]:
    """All that is computed of a file: boxes, and every number of its models."""
    boxes = attempt_load(path)(torch.full((1, 3, 64, 64), 0.3))[0]
    checkpoint = load_checkpoint(path)
    models = [checkpoint[key] for key in ("model", "ema") if checkpoint.get(key) is not None]
    strip_optimizer(path, path.with_name("stripped.pt"))
    return [boxes, *(value.float() for model in models for value in model.state_dict().values())]


def outcome(path: Path, reference: list[torch.Tensor]) -> str:
    """'refused', 'same', 'other', or what broke."""
    started = time.process_time()
    try:
        found = results(path)
    except InputError as error:
        word = "refused" if "\n" not in str(error) and len(str(error)) < 1000 else "a message of several lines"
    except Exception as error:  # noqa: BLE001 - counted
        word = f"traceback: {type(error).__name__}: {error}"[:200]
    else:
        equal = len(found) == len(reference) and all(map(torch.equal, found, reference))
        word = "same" if equal else "other"
    return "slow" if time.process_time() - started > SLOW else word


def count(kind: str, tries: int, seed: int = 0) -> Counter[str]:
    """Return how often each outcome comes of so many damaged files."""
    chance, found = random.Random(seed), Counter[str]()
    level, logger = logging.getLogger("yolov5").level, logging.getLogger("yolov5")
    logger.setLevel(logging.ERROR)
    with TemporaryDirectory() as folder:
        good, path = training_file(Path(folder, "good.pt")), Path(folder, "last.pt")
        reference, content = results(good), good.read_bytes()
        for number in range(tries):
            path.write_bytes(content)
            KINDS[kind](path, chance)
            word = outcome(path, reference)
            found[word] += 1
            if word not in ("refused", "same", "other"):
                print(f"{kind}, try {number} of seed {seed}: {word}", file=sys.stderr)
    logger.setLevel(level)
    return found


def main() -> None:
    """Print a line for each kind of damage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind in KINDS:
        print(f"{kind}: {dict(count(kind, options.tries, options.seed))}", flush=True)


if __name__ == "__main__":
    main()
