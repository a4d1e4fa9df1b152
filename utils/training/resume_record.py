"""The part of last.pt beyond weights that continues a run exactly: ``snapshot`` makes it, ``restore`` puts it back.

Nothing of a file is used before all of it has been checked (``resume_checks``).
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from utils.dataset.classes import class_names
from utils.dataset.record import changes
from utils.errors import InputError
from utils.log import LOGGER
from utils.training.optim import load_optimizer
from utils.training.resume_checks import Counters, Judge, check_optimizer
from utils.training.state import TrainingState


def snapshot(state: TrainingState) -> dict[str, Any]:
    """Random generators, loss scale, step counters, the best epoch, plug-ins and the mAP of each class: plain values.

    NumPy's state is stored as a tensor: its own pickles name private modules that other NumPy versions do not have.
    """
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    stopper = state.best.stopper
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "loader": state.loader.generator_state(),
        "scaler": state.scaler.state_dict(),
        "maps": list(state.maps),
        "last_step": state.last_step,
        "accumulate": state.accumulate,
        "best_grade": state.best.grade,
        "plugins": state.plugins | state.callbacks.state_dict(),
        "stopper": (stopper.best_fitness, stopper.best_epoch, stopper.possible_stop, stopper.stopped),
        "data": state.image_records,
    }


def restore(checkpoint: dict[str, Any], counters: Counters, state: TrainingState, path: str) -> None:
    """Put ``state`` back where ``checkpoint``, from which ``judge`` made ``counters``, was written.

    Raises:
        InputError: weights, averages or optimizer are of another network, or damaged.
    """
    judged = Judge(path)
    if counters.epoch >= state.epochs:
        raise judged.refuse("epoch", f"{counters.epoch}, but the run in opt.yaml has {state.epochs} epochs")
    if counters.maps and len(counters.maps) != state.model.nc:
        raise judged.refuse("maps", f"{len(counters.maps)} values for {state.model.nc} classes")
    LOGGER.info(f"Resuming after epoch {counters.epoch} of {path}")
    for key, network in (("model", state.model), ("ema", state.ema.ema)):
        if checkpoint.get(key) is not None:
            _load_network(judged, key, checkpoint[key], network)
    check_optimizer(judged, state.optimizer, checkpoint["optimizer"])
    judged.accepted(
        "optimizer", lambda: load_optimizer(state.optimizer, checkpoint["optimizer"]), "it does not fit this run's"
    )
    if checkpoint.get("ema") is not None:
        state.ema.updates = counters.updates
    if not counters.exact:
        LOGGER.warning(
            f"{path} has no random states (it was written by another program): the run continues, but not bit for bit"
        )
    else:
        saved = checkpoint["resume"]
        _restore_generators(saved, state)
        if saved["scaler"]:
            state.scaler.load_state_dict(saved["scaler"])
        # With fewer batches per epoch than before, the last step must not lie in the future
        state.last_step = min(counters.last_step, len(state.loader) * (counters.epoch + 1) - 1)
        state.accumulate = counters.accumulate
        state.plugins = counters.plugins
        stopper = state.best.stopper
        stopper.best_fitness, stopper.best_epoch, stopper.possible_stop, stopper.stopped = counters.stopper
        _compare_data(counters.data, state.image_records)
    state.best.grade = counters.best_grade
    state.best.fitness = counters.best_fitness
    state.maps = counters.maps
    state.first_epoch = counters.epoch + 1
    state.epoch = state.first_epoch


def _compare_data(before: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> None:
    """Warn if the images have changed; older files have no record of them."""
    differences = []
    for split in sorted(before.keys() & now.keys()):
        difference = changes(before[split], now[split])
        if difference:
            differences.append(f"{split}: {difference}")
    if differences:
        LOGGER.warning(
            f"WARNING: the data set has changed since this checkpoint was written ({'; '.join(differences)}): the run "
            "continues with the present images, so not exactly as it would have"
        )


def check_names(model: Any, names: list[str], path: str, data: str) -> None:
    """Raise InputError if the data set has another number of classes than the run; warn of other names."""
    own = class_names(model)
    if len(own) != len(names):
        raise InputError(
            f"{path} has {len(own)} classes but {data} has {len(names)}: resume with the data set of the run, "
            "or start a new run from its weights with --weights"
        )
    if own != names:
        changed = next(index for index, pair in enumerate(zip(own, names, strict=True)) if pair[0] != pair[1])
        LOGGER.warning(
            f"WARNING: the names of the classes have changed: class {changed} was {own[changed]} and is "
            f"{names[changed]} in {data}"
        )


def _load_network(judged: Judge, key: str, source: Any, network: Any) -> None:
    """Load the weights of ``source``, which must be finite and of the same network."""
    weights = judged.instance(key, source, torch.nn.Module, "a network").float().state_dict()
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise judged.refuse(key, f"{name} holds values that are not numbers")
    judged.accepted(key, lambda: network.load_state_dict(weights), "it is not the network of the run")


def _restore_generators(saved: dict[str, Any], state: TrainingState) -> None:
    name, keys, *rest = saved["numpy"]
    random.setstate(saved["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["cuda"][: torch.cuda.device_count()])  # the run may have had more GPUs
    if saved["loader"] is not None:
        state.loader.set_generator_state(saved["loader"])
