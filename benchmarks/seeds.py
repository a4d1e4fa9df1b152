#!/usr/bin/env python3
"""Whether the fast training loop ends where the plain one does: the mAP of both over several seeds.

    python benchmarks/seeds.py --data data/mask.yaml --weights yolov5n.pt --imgsz 320 --epochs 10

Both are runs of train.py. The plain one has contiguous memory, the two-step mosaic, images read anew and an optimizer
that works parameter by parameter, as in benchmarks/training.py. Each run has a process with one thread, and is kept in
--project: the same command goes on after an interruption.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from utils.commands.cli import run_command
from utils.commands.options import build, command_line, option, parse, to_dict
from utils.errors import InputError
from utils.log import LOGGER
from utils.resources import usable_cores
from utils.storage.files import ROOT, atomic_path, make_folder
from utils.training.options import TrainOptions

WAYS = ("fast", "plain")
METRICS = {"mAP50": 2, "mAP50-95": 3}  # their places among the results


@dataclass
class SeedOptions:
    """Options of the comparison."""

    data: str = option(str(ROOT / "data/mask_demo.yaml"), "data set YAML")
    weights: str = option("", "start from this checkpoint; '' starts from scratch with --cfg")
    cfg: str = option("", "model YAML; default: the architecture stored in --weights")
    imgsz: int = option(320, "image size in pixels")
    batch_size: int = option(16, "images per batch")
    epochs: int = option(10, "epochs of each run")
    seeds: int = option(3, "runs of each way")
    jobs: int = option(0, "runs at once; 0: one for each core")
    project: str = option(str(ROOT / "runs/seeds"), "folder of the runs")
    only: str = option("", "one run in this process, such as plain-2")

    def __post_init__(self) -> None:
        """Refuse what says nothing about noise, and unknown runs."""
        if self.seeds < 2:
            raise InputError(f"--seeds must be at least 2, for it is noise that is looked for; got {self.seeds}")
        if self.only and self.only not in self.names():
            raise InputError(f"--only {self.only} is not a run: expected one of {', '.join(self.names())}")

    def names(self) -> list[str]:
        """The runs."""
        return [f"{way}-{seed}" for seed in range(self.seeds) for way in WAYS]


def take_plain_way(state: Any) -> None:
    """Train slowly from here on; the data set is read in this process."""
    from benchmarks.training import make_plain
    from benchmarks.two_step import TwoStepImages

    make_plain(state)
    state.loader.dataset.__class__ = TwoStepImages


def train_once(options: SeedOptions) -> None:
    """The run ``options.only``, in this process; its results go into a JSON file beside its folder."""
    import train
    from benchmarks.training import plain_images
    from utils.callbacks import Callbacks
    from utils.training import batch_step

    way, _, seed = options.only.partition("-")
    chosen = build(
        TrainOptions, data=options.data, weights=options.weights, cfg=options.cfg, imgsz=options.imgsz,
        batch_size=options.batch_size, epochs=options.epochs, seed=int(seed), cache="auto" if way == "fast" else "none",
        device="cpu", workers=0, noplots=True, nosave=True, project=options.project, name=options.only, exist_ok=True,
    )  # fmt: skip
    if way == "fast":
        results = train.main(chosen)
    else:
        callbacks = Callbacks()
        callbacks.register_action("on_training_ready", callback=take_plain_way)
        with mock.patch.object(batch_step, "prepare_images", plain_images):
            results = train.main(chosen, callbacks)
    with atomic_path(result_file(options)) as draft:
        draft.write_text(json.dumps({"options": conditions(options), "results": results}), encoding="utf-8")


def result_file(options: SeedOptions) -> Path:
    """Return where the run ``options.only`` writes its results."""
    return Path(options.project) / f"{options.only}.json"


def run_apart(options: SeedOptions) -> list[float]:
    """The results of the run ``options.only``, from its file, or from a process of its own."""
    file = result_file(options)
    if not file.is_file():
        command = [sys.executable, *shlex.split(command_line(__file__, SeedOptions, to_dict(options)))[1:]]
        with file.with_suffix(".log").open("w", encoding="utf-8") as log:
            code = subprocess.call(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if code:
            raise InputError(f"{options.only} failed with exit code {code}: see {log.name}")
    made = json.loads(file.read_text(encoding="utf-8"))
    if made["options"] != conditions(options):
        raise InputError(f"{file} was made with other options: choose another --project")
    return made["results"]


def conditions(options: SeedOptions) -> dict[str, object]:
    """Return what the results of a run depend on."""
    return {name: value for name, value in to_dict(options).items() if name not in ("seeds", "jobs", "project")}


def as_table(results: dict[str, list[float]], seeds: int) -> str:
    """Mean and standard deviation of each way, and how far apart the means are, as Markdown."""
    lines = ["| | " + " | ".join(METRICS) + " |", "| --- |" + " ---: |" * len(METRICS)]
    values = {way: {name: [results[f"{way}-{seed}"][place] for seed in range(seeds)] for name, place in METRICS.items()}
              for way in WAYS}  # fmt: skip
    for way, metrics in values.items():
        cells = (f"{statistics.mean(found):.3f} ± {statistics.stdev(found):.3f}" for found in metrics.values())
        lines.append(f"| {way} | {' | '.join(cells)} |")
    apart = (statistics.mean(values["fast"][name]) - statistics.mean(values["plain"][name]) for name in METRICS)
    return "\n".join([*lines, f"| fast - plain | {' | '.join(f'{difference:+.3f}' for difference in apart)} |"])


def main(options: SeedOptions) -> dict[str, list[float]]:
    """Train, print the table and return the results of each run."""
    if options.only:
        train_once(options)
        return {}
    make_folder(Path(options.project))
    with ThreadPoolExecutor(options.jobs or usable_cores()) as pool:
        runs = pool.map(run_apart, (replace(options, only=name) for name in options.names()))
        results = dict(zip(options.names(), tqdm(runs, "Runs", len(options.names()), disable=None), strict=True))
    LOGGER.info("\n" + as_table(results, options.seeds))
    LOGGER.info(f"Results saved to {options.project}")
    return results


if __name__ == "__main__":
    run_command(lambda: main(parse(SeedOptions, "mAP of the fast and the plain training loop over several seeds.")))
