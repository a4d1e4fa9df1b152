#!/usr/bin/env python3
"""Kills a training with SIGKILL at random moments, resumes it each time, and compares it with one left alone.

    python benchmarks/resume.py --data data/mask_demo.yaml --cfg models/yolov5n_mask.yaml --imgsz 64 --epochs 60

    python benchmarks/resume.py --pipeline --epochs 10 --kills 30 --window 20      # prune_tools/pipeline.py, any step

    python benchmarks/resume.py --signal TERM --kills 100 --epochs 2000            # must be obeyed each time

After each kill last.pt must load and the run must go on. In the end weights and results.csv must equal, bit for bit,
those of a run that was never stopped. A kill is aimed at a random moment of the next ``--window`` seconds after the run
has begun its work; before the first epoch has ended there is nothing to resume, so the first kill waits for last.pt.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT, make_folder

POLL_SECONDS = 0.02
OBEYED_WITHIN_SECONDS = 30
RESULTS = (".csv", ".pt", ".json")  # what is written when a step of the pipeline has begun its work


@dataclass
class ResumeOptions:
    """Options of the benchmark."""

    data: str = option(str(ROOT / "data/mask_demo.yaml"), "data set YAML")
    cfg: str = option(str(ROOT / "models/yolov5n_mask.yaml"), "model YAML, trained from scratch")
    imgsz: int = option(64, "image size in pixels")
    batch_size: int = option(4, "images per batch")
    epochs: int = option(60, "epochs; they must last longer than all kills together")
    kills: int = option(20, "how often the run is killed")
    window: float = option(4.0, "seconds of work within which it is killed")
    signal: str = option("KILL", "what is sent; all but KILL must be obeyed", choices=["KILL", "TERM", "INT", "HUP"])
    seed: int = option(0, "seed of the moments")
    pipeline: bool = option(
        False, "kill prune_tools/pipeline.py, with --epochs for each training, and repeat its command"
    )
    folder: str = option(str(ROOT / "runs/benchmark_resume"), "folder of the two runs, which must not exist")


def start(options: ResumeOptions, name: str, last: Path | None = None) -> subprocess.Popen:
    """Start the training, or resume it from ``last``, in a process of its own."""
    command = [sys.executable, str(ROOT / "train.py")]
    if options.pipeline:
        command = [sys.executable, str(ROOT / "prune_tools/pipeline.py"), *pipeline_flags(options, name)]
    elif last is None:
        flags = {"data": options.data, "cfg": options.cfg, "weights": "", "imgsz": options.imgsz, "workers": 0,
                 "batch-size": options.batch_size, "epochs": options.epochs, "device": "cpu", "patience": 0,
                 "project": options.folder, "name": name}  # fmt: skip
        command += [part for flag, value in flags.items() for part in (f"--{flag}", str(value))] + ["--noplots"]
    else:
        command += ["--resume", str(last)]
    log = (Path(options.folder) / f"{name}.log").open("a", encoding="utf-8")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)


def send(process: subprocess.Popen, name: str) -> float:
    """Send a signal to a run; returns the seconds until it has ended. Raises InputError if it does not obey."""
    number, sent = signal.Signals[f"SIG{name}"], time.monotonic()
    process.send_signal(number)
    try:
        code = process.wait(OBEYED_WITHIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise InputError(f"SIG{name} was not obeyed within {OBEYED_WITHIN_SECONDS} s") from None
    if code not in (-number, 128 + number):
        raise InputError(f"SIG{name} ended the run with exit code {code}, expected {128 + number}: see the log")
    return time.monotonic() - sent


def pipeline_flags(options: ResumeOptions, name: str) -> list[str]:
    """The command line of the pipeline, the same after every kill."""
    flags = {"data": options.data, "cfg": options.cfg, "weights": "", "imgsz": options.imgsz, "workers": 0,
             "batch-size": options.batch_size, "base-epochs": options.epochs, "sparse-epochs": options.epochs,
             "finetune-epochs": options.epochs, "device": "cpu", "percent": 0.5, "project": options.folder,
             "name": name}  # fmt: skip
    return [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]


def kill_and_repeat(options: ResumeOptions, name: str) -> list[dict[str, Any]]:
    """Run the pipeline to its end in spite of all kills; returns where each met it."""
    chance, found = random.Random(options.seed), list[dict[str, Any]]()
    process = start(options, name)
    while len(found) < options.kills and process.poll() is None:
        delay = chance.uniform(0, options.window)
        wait_for_work(process, Path(options.folder) / name, time.time_ns())
        try:
            process.wait(delay)
            break
        except subprocess.TimeoutExpired:
            send(process, options.signal)
        steps = sorted(path.name for path in (Path(options.folder) / name).glob("*/") if path.is_dir())
        found.append({"kill": len(found) + 1, "delay": delay, "steps": steps})
        LOGGER.info(f"kill {len(found):2d} after {delay:.2f} s: {' '.join(steps) or 'nothing'} begun")
        process = start(options, name)
    if process.wait() != 0:
        raise InputError(f"the pipeline could not go on: see {options.folder}/{name}.log")
    drafts = [*(Path(options.folder) / name).rglob(".draft-*")]
    if drafts:
        raise InputError(f"{len(drafts)} half files are left, the first is {drafts[0]}")
    return found


def wait_for_work(process: subprocess.Popen, run: Path, since: int) -> None:
    """Wait until a result in the run folder is newer than ``since`` (ns), or the process has ended."""
    while process.poll() is None:
        with suppress(OSError):  # a draft that has gone meanwhile
            files = [path for path in run.rglob("*") if path.suffix in RESULTS]
            if any(path.stat().st_mtime_ns > since for path in files):
                return
        time.sleep(POLL_SECONDS)


def differences_of_pipelines(first: Path, second: Path) -> list[str]:
    """Names of the tensors and files that differ between two finished pipelines."""
    import torch

    from models.loading import load_checkpoint

    different = [f"{step}: {name}" for step in ("base", "sparse", "finetuned")
                 for name in differences(first / step, second / step)]  # fmt: skip
    states = [load_checkpoint(run / "pruned/pruned_model.pt")["model"].state_dict() for run in (first, second)]
    different += [f"pruned: {key}" for key, value in states[0].items() if not torch.equal(value, states[1][key])]
    return different


def wait_for_change(process: subprocess.Popen, file: Path, since: int) -> None:
    """Wait until ``file`` exists and is newer than ``since`` (ns). Raises InputError when the process ends before."""
    while not file.is_file() or file.stat().st_mtime_ns <= since:
        if process.poll() is not None:
            raise InputError(f"the run ended before {file} was written: see the log beside it; give more --epochs")
        time.sleep(POLL_SECONDS)


def kill_and_resume(options: ResumeOptions, name: str) -> list[dict[str, Any]]:
    """Run the training to its end in spite of all kills; returns what was found after each."""
    from models.loading import load_checkpoint

    chance, run = random.Random(options.seed), Path(options.folder) / name
    last, found = run / "weights/last.pt", []
    process, resumed_at = start(options, name), 0
    for number in range(options.kills):
        # The run has begun its work when it writes: at first last.pt, later results.csv, which resuming trims
        wait_for_change(process, last if number == 0 else run / "results.csv", resumed_at)
        delay = chance.uniform(0, options.window)
        try:
            process.wait(delay)
            raise InputError(f"the run was over after {number} kills: give more --epochs")
        except subprocess.TimeoutExpired:
            ended_after = send(process, options.signal)
        drafts = [file.name for file in (run / "weights").glob(".draft-*")]
        epoch = load_checkpoint(last)["epoch"]
        found.append({"kill": number + 1, "delay": delay, "epoch": epoch, "drafts": len(drafts), "ended": ended_after})
        LOGGER.info(f"{options.signal} {number + 1:2d} after {delay:.2f} s: ended {ended_after:.1f} s later, "
                    f"last.pt is of epoch {epoch}, {len(drafts)} half files")  # fmt: skip
        resumed_at = time.time_ns()
        process = start(options, name, last)
    if process.wait() != 0:
        raise InputError(f"the run could not go on: see {options.folder}/{name}.log")
    return found


def differences(first: Path, second: Path) -> list[str]:
    """Names of the tensors and files that differ between two finished runs."""
    import torch

    from models.loading import load_checkpoint

    different = []
    for name in ("last.pt", "best.pt"):
        states = [load_checkpoint(run / "weights" / name)["model"].state_dict() for run in (first, second)]
        different += [f"{name}: {key}" for key, value in states[0].items() if not torch.equal(value, states[1][key])]
    if (first / "results.csv").read_bytes() != (second / "results.csv").read_bytes():
        different.append("results.csv")
    return different


def main(options: ResumeOptions) -> list[dict[str, Any]]:
    """Run both trainings and compare them. Raises InputError when anything was lost."""
    if Path(options.folder).exists():
        raise InputError(f"{options.folder} exists: remove it, or choose another --folder")
    make_folder(options.folder)
    LOGGER.info("the run that is left alone ...")
    if start(options, "whole").wait() != 0:
        raise InputError(f"training does not work here: see {options.folder}/whole.log")
    kill, compare = (kill_and_repeat, differences_of_pipelines) if options.pipeline else (kill_and_resume, differences)
    found = kill(options, "killed")
    different = compare(Path(options.folder) / "whole", Path(options.folder) / "killed")
    lost = f"{len(different)} differences: {', '.join(different[:5])}" if different else "no difference, bit for bit"
    LOGGER.info(f"{len(found)} kills, {options.epochs} epochs; against the run that was left alone: {lost}")
    if different:
        raise InputError("the resumed run is not the same")
    return found


if __name__ == "__main__":
    run_command(lambda: main(parse(ResumeOptions, "Kill a training again and again, and resume it.")))
