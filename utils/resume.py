"""Continuing an interrupted run: its options, and what a checkpoint needs beyond weights and optimizer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from utils.config import TrainOptions, build
from utils.errors import InputError, MissingFileError
from utils.files import ROOT, atomic_path, newest_file, read_yaml_mapping
from utils.log import LOGGER
from utils.optim import load_optimizer

FOLLOWS_CHECKPOINT = ("resume", "hyp", "project", "name", "exist_ok")  # given by where the checkpoint lies
OF_THE_LAUNCHER = ("local_rank",)  # says nothing about the run
REMEDY = "name the checkpoint, --resume RUN/weights/last.pt"
STILL_OPEN = ("device", "workers")  # options that may change when a run is resumed
SomeOptions = TypeVar("SomeOptions", bound=TrainOptions)

if TYPE_CHECKING:
    from utils.optim import EarlyStopping
    from utils.state import TrainingState


def resume_options(options: SomeOptions) -> tuple[SomeOptions, Path]:
    """The options of the interrupted run, and its folder; of this call's flags only --device counts beside them."""
    checkpoint = (
        Path(options.resume) if isinstance(options.resume, str) else newest_file(ROOT / "runs", "last*.pt", REMEDY)
    )
    run_folder = checkpoint.resolve().parent.parent
    if not checkpoint.is_file() or not (run_folder / "opt.yaml").is_file():
        raise MissingFileError(f"--resume needs RUN/weights/last.pt beside RUN/opt.yaml, got {checkpoint}")
    recorded = read_yaml_mapping(run_folder / "opt.yaml")
    saved = {key: value for key, value in recorded.items() if key not in ("save_dir", "hyp", *OF_THE_LAUNCHER)}
    for own_option, kind, command in (
        ("sr", "sparse training", "train_sparity"),
        ("recipe", "fine-tuning", "finetune"),
    ):
        if own_option in saved and not hasattr(options, own_option):
            raise InputError(f"{checkpoint} is of {kind}: prune_tools/{command}.py --resume {checkpoint}")
    own = vars(build(type(options)))
    lost = [
        f"--{name.replace('_', '-')}"
        for name, value in vars(options).items()
        if name not in (*FOLLOWS_CHECKPOINT, *STILL_OPEN, *OF_THE_LAUNCHER)
        and value not in (own[name], saved.get(name))
    ]
    if lost:
        raise InputError(f"--resume continues with the options of {run_folder}/opt.yaml: leave out {', '.join(lost)}")
    chosen = {name: getattr(options, name) for name in STILL_OPEN if getattr(options, name) != own[name]}
    chosen |= {name: getattr(options, name) for name in OF_THE_LAUNCHER}
    saved |= {"resume": str(checkpoint), "hyp": str(run_folder / "hyp.yaml"), **chosen}
    return build(type(options), **saved), run_folder


def snapshot(state: TrainingState, stopper: EarlyStopping, maps: Sequence[float]) -> dict[str, Any]:
    """Random generators, loss scale, step counters, early stopping and the mAP of each class, as plain values.

    NumPy's state is stored as a tensor: its own pickles name private modules that other NumPy versions do not have.
    """
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    generator = getattr(state.loader.sampler, "generator", None)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "loader": generator.get_state() if generator is not None else None,
        "scaler": state.scaler.state_dict(),
        "maps": list(maps),
        "last_step": state.last_step,
        "accumulate": state.accumulate,
        "best_grade": state.best_grade,
        "plugins": state.plugins,
        "stopper": (stopper.best_fitness, stopper.best_epoch, stopper.possible_stop, stopper.stopped),
    }


def restore(
    checkpoint: dict[str, Any], state: TrainingState, stopper: EarlyStopping, path: str
) -> tuple[int, float, list[float]]:
    """Put a run back where ``checkpoint`` was written.

    Returns:
        The epoch to start with, the best fitness so far, and the mAP of each class (empty where it is unknown).

    Raises:
        InputError: the checkpoint is that of a finished run, or of one that has no epoch left.
    """
    epoch = checkpoint.get("epoch", -1)
    if epoch < 0 or checkpoint.get("optimizer") is None:
        raise InputError(
            f"{path} is of a finished run, there is nothing to resume: train from it with --weights {path}"
        )
    LOGGER.info(f"Resuming after epoch {epoch} of {path}")
    state.model.load_state_dict(checkpoint["model"].float().state_dict())
    load_optimizer(state.optimizer, checkpoint["optimizer"])
    if checkpoint.get("ema") is not None:
        state.ema.ema.load_state_dict(checkpoint["ema"].float().state_dict())
        state.ema.updates = checkpoint["updates"]
    saved = checkpoint.get("resume")
    if saved is None:
        LOGGER.warning(
            f"{path} holds no random states (it was written by another program): the run goes on, not bit for bit"
        )
    else:
        _restore_generators(saved, state)
        state.scaler.load_state_dict(saved["scaler"]) if saved["scaler"] else None
        state.last_step, state.accumulate = saved["last_step"], saved["accumulate"]
        state.best_grade, state.plugins = saved.get("best_grade", 0.0), saved.get("plugins", {})
        stopper.best_fitness, stopper.best_epoch, stopper.possible_stop, stopper.stopped = saved["stopper"]
    return epoch + 1, float(checkpoint.get("best_fitness") or 0.0), (saved or {}).get("maps", [])


def _restore_generators(saved: dict[str, Any], state: TrainingState) -> None:
    name, keys, *rest = saved["numpy"]
    random.setstate(saved["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["cuda"])
    generator = getattr(state.loader.sampler, "generator", None)
    if generator is not None and saved["loader"] is not None:
        generator.set_state(saved["loader"])


def trim_results(path: Path, start_epoch: int) -> None:
    """Drop the rows of results.csv that the resumed run will write again, and one that was broken off."""
    if not path.is_file():
        return
    header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    complete = [row for row in rows if row.endswith("\n") and row.count(",") == header.count(",")]
    kept = [row for row in complete if int(row.split(",")[0]) < start_epoch]
    with atomic_path(path) as draft:
        draft.write_text("".join([header, *kept]), encoding="utf-8")
