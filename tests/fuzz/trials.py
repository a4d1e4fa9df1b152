"""One trial each: an input goes in, what came of it comes out. A traceback is never right."""

from __future__ import annotations

import contextlib
import io
import logging
import random
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz import inputs
from utils.commands.cli import run_command
from utils.commands.options import parse
from utils.errors import InputError
from utils.log import LOGGER
from utils.training.hyperparameters import read_hyperparameters
from utils.training.options import TrainOptions

LONGEST_MESSAGE = 3000  # characters; a command line may name a file of many
ENDINGS = (["--data", "nowhere.yaml"], ["--data", "."], ["--data", "broken.yaml"])
NO_WEIGHTS = ["--weights", "nowhere.pt"]


@dataclass
class Outcome:
    """Outcome of an input: ``kind`` is fine, refused (one line), usage (of the command), traceback or bad message."""

    kind: str
    text: str
    seconds: float


def trial(work: Callable[[], Any]) -> Outcome:
    """Run ``work``; CPU seconds are counted, so that a busy machine changes nothing."""
    started = time.process_time()
    kind, text = "fine", ""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            work()
    except InputError as error:
        kind, text = "refused", str(error)
    except SystemExit as error:
        kind = {0: "fine", None: "fine", 2: "usage"}.get(error.code, "refused")  # type: ignore[arg-type]
        text = error.code if isinstance(error.code, str) else ""
    except Exception:  # noqa: BLE001 - this is what is looked for
        kind, text = "traceback", traceback.format_exc()
    if kind == "refused" and ("\n" in text or not 5 < len(text) < LONGEST_MESSAGE):
        kind = "bad message"
    return Outcome(kind, text, time.process_time() - started)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No log for the time being."""
    level = LOGGER.level
    LOGGER.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


def build_model(rng: random.Random, folder: Path) -> tuple[bytes, Outcome]:
    """A network of a random configuration."""
    from models.yolo import DetectionModel

    text = inputs.model_text(rng)
    (folder / "model.yaml").write_bytes(text)
    return text, trial(lambda: DetectionModel(folder / "model.yaml"))


def read_data(rng: random.Random, folder: Path) -> tuple[bytes, Outcome]:
    """A random description of a data set, or random hyperparameters."""
    from utils.dataset.description import check_dataset

    (folder / "images").mkdir(exist_ok=True)
    if rng.random() < 0.3:
        text = inputs.hyp_text(rng)
        (folder / "hyp.yaml").write_bytes(text)
        return text, trial(lambda: read_hyperparameters(folder / "hyp.yaml"))
    text = inputs.data_text(rng)
    (folder / "data.yaml").write_bytes(text)
    return text, trial(lambda: check_dataset(folder / "data.yaml"))


def run_any_command(rng: random.Random, folder: Path) -> tuple[bytes, Outcome]:
    """A random command line of one of the commands, which a missing file stops before its work."""
    (folder / "broken.yaml").write_text("train: [a\n", encoding="utf-8")
    name, main, options_class, ending = rng.choice(list(_commands(rng)))
    words = inputs.arguments(rng, options_class, [*ending, "--project", str(folder / "runs")])
    text = " ".join([name, *map(repr, words)]).encode(errors="replace")
    return text, trial(lambda: run_command(lambda: main(parse(options_class, "", words))))


def _commands(rng: random.Random) -> Iterator[tuple[str, Any, type, list[str]]]:
    import detect
    import export
    import train
    import val
    from prune_tools import finetune, pipeline, prune, sensitivity, sweep, train_sparity

    unreadable = rng.choice(ENDINGS)
    yield "train", train.main, TrainOptions, [*unreadable, "--weights", ""]
    yield "val", val.main, val.ValOptions, [*unreadable, *NO_WEIGHTS]
    yield "detect", detect.main, detect.DetectOptions, [*NO_WEIGHTS, "--source", "nowhere"]
    yield "export", export.main, export.ExportOptions, [*unreadable, *NO_WEIGHTS]
    yield "train_sparity", train_sparity.main, train_sparity.SparseOptions, [*unreadable, *NO_WEIGHTS]
    yield "finetune", finetune.main, finetune.FinetuneOptions, [*unreadable, *NO_WEIGHTS]
    yield "prune", prune.main, prune.PruneOptions, [*unreadable, *NO_WEIGHTS]
    yield "sweep", sweep.main, sweep.SweepOptions, [*unreadable, *NO_WEIGHTS]
    yield "sensitivity", sensitivity.main, sensitivity.SensitivityOptions, [*unreadable, *NO_WEIGHTS]
    yield "pipeline", pipeline.main, pipeline.PipelineOptions, [*unreadable, *NO_WEIGHTS]


TRIALS = {"models": build_model, "data": read_data, "commands": run_any_command}
