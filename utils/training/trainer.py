"""A training run from its options to its checkpoints::

    prepare                    inputs, model, loaders, optimizer              (preparation.py)
    for each epoch:
        train_one_epoch        forward, loss, backward, optimizer steps      (engine.py)
        validate the average, decide whether it is the best so far, save it
    finish                     strip the checkpoints, validate best.pt

Of several ranks each trains; the first one alone validates, reports and writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from utils.callbacks import Callbacks
from utils.commands.cli import show_arguments
from utils.commands.interrupts import resume_flag
from utils.commands.next_steps import log_next
from utils.device import device_line
from utils.distributed import from_first, processes
from utils.log import LOGGER, colorstr
from utils.loggers import Loggers
from utils.metrics import fitness
from utils.training.engine import train_one_epoch
from utils.training.evolve import evolve
from utils.training.interfaces import Networks, Results, Surroundings, Validation
from utils.training.options import TrainOptions
from utils.training.preparation import Prepared, prepare
from utils.training.results import EpochResult
from utils.training.resume import Resumption, resume_options
from utils.training.run_folder import RunFolder, run_folder
from utils.training_record import recorded_fields, training_record

# (best.pt, options of the run, names of those that best.pt records for later commands) -> commands
NextSteps = Callable[[str, Any, Collection[str]], Sequence[str]]
NOTHING: Results = (0.0,) * 7
CHECKPOINT_ATTRIBUTES = ["yaml", "nc", "hyp", "names", "stride", "class_weights"]


class Trainer:
    """The epochs of a prepared run."""

    def __init__(self, prepared: Prepared, folder: RunFolder, around: Surroundings) -> None:
        """Keep what the epochs need."""
        self.state = prepared.state
        self.run = prepared.state.run
        self.val_loader = prepared.val_loader
        self.folder = folder
        self.networks = around.networks
        self.validate = around.validate
        self.results = NOTHING  # of the last validation

    def fit(self) -> bool:
        """Run the epochs; False when a callback stopped the run before its end."""
        state, run, started = self.state, self.run, time.time()
        options, dataset = run.options, state.loader.dataset
        LOGGER.info(
            f"Image sizes {run.image_size} train, {run.image_size} val\n"
            f"Using {state.loader.num_workers * run.world.size} dataloader workers\n"
            f"Logging results to {colorstr('bold', str(self.folder.path))}\n"
            f"Starting training for {options.epochs} epochs..."
        )
        run.callbacks.begin(state)
        run.callbacks.run("on_train_start")
        state.epoch = state.first_epoch - 1
        while state.epoch + 1 < options.epochs and not state.best.stopper.stopped:
            state.epoch += 1
            if options.image_weights:
                dataset.draw_by_weight(self._class_weights(), run.random_of_batch(state.epoch))
            losses = train_one_epoch(state)
            if losses is None:
                return False
            if state.epoch + 1 < options.epochs:
                state.loader.begin_next()
            self._end_epoch(losses)
        self.folder.writer.finish()
        epochs = state.epoch - state.first_epoch + 1
        LOGGER.info(f"\n{epochs} epochs completed in {(time.time() - started) / 3600:.3f} hours.")
        return True

    def _class_weights(self) -> np.ndarray:
        """Weight (nc,) of each class for --image-weights: higher for rare classes and for those detected badly."""
        model: Any = self.state.model
        missed = 1 - np.array(self.state.maps or [0.0])
        return model.class_weights.cpu().numpy() * missed**2 / model.nc

    def _end_epoch(self, losses: np.ndarray) -> None:
        """Validate, decide whether the epoch is the best so far, run the callbacks, and save; ``losses`` (3,)."""
        state, run, epoch = self.state, self.run, self.state.epoch
        rates = [group["lr"] for group in state.optimizer.param_groups]
        for group in state.optimizer.param_groups:  # for the next epoch: as published, the schedule is one epoch late
            group["lr"] = group["initial_lr"] * run.learning_rate_factor(epoch)
        run.callbacks.run("on_train_epoch_end", epoch=epoch)
        state.ema.update_attr(state.model, include=CHECKPOINT_ATTRIBUTES)
        final = epoch + 1 == run.options.epochs or state.best.stopper.possible_stop
        if not run.options.noval or final:
            self._validate_average()
        result = EpochResult(*map(float, (*losses, *self.results, *rates)))
        merit = float(fitness(np.array(self.results).reshape(1, -1))[0])
        improved = state.best.update(epoch, merit, state.grade)
        run.callbacks.run("on_fit_epoch_end", result, epoch, state.best.fitness, merit)
        if run.options.nosave and (not final or run.options.evolve):
            return
        if run.is_main:
            self.folder.save(state, improved)
        state.best.saved |= improved
        if run.is_main:
            if run.callbacks.get_registered_actions("on_model_save"):
                self.folder.writer.finish()
            run.callbacks.run("on_model_save", self.folder.last, epoch, final, state.best.fitness, merit)

    def _validate_average(self) -> None:
        """Validate the moving average on the first rank, for all ranks."""
        results, maps = NOTHING, NOTHING
        if self.run.is_main:
            results, maps = self._validate(self.state.ema.ema)
        self.results, maps = from_first((results, maps))
        self.state.maps = [float(value) for value in maps]

    def _validate(self, model: nn.Module, plots: bool = False, verbose: bool = False) -> tuple[Results, Any]:
        """The results of ``model`` on the validation split, and mAP50-95 by class."""
        run = self.run
        assert self.val_loader is not None
        results, maps, _ = self.validate(
            run.data, batch_size=self.val_loader.batch_size, imgsz=run.image_size, model=model,
            half=run.autocast_dtype is not None and run.device.type == "cuda", single_cls=run.options.single_cls,
            dataloader=self.val_loader, save_dir=self.folder.path, plots=plots, verbose=verbose,
            compute_loss=self.state.compute_loss, callbacks=run.callbacks,
        )  # fmt: skip
        return results, maps

    def close(self) -> None:
        """End the loader processes: left to Python's end, torch waits for each in vain for five seconds."""
        for loader in (self.state.loader, self.val_loader):
            if loader is not None:
                loader.close()

    def finish(self) -> None:
        """Strip the checkpoints, validate best.pt once more with plots, and say where everything is.

        last.pt is stripped when all else is done: what is interrupted before can be resumed.
        """
        last, best, plots = self.folder.last, self.folder.best, self.run.plots
        saved = self.state.best.saved
        if saved:
            self.networks.strip_optimizer(best)
            LOGGER.info(f"\nValidating {best}...")
            model = self.networks.attempt_load(best, self.run.device)
            self.results, _ = self._validate(model, plots=plots, verbose=True)
        self.run.callbacks.run("on_train_end", last, best, plots, self.state.epoch, self.results)
        if saved:
            self.networks.strip_optimizer(last)  # from here on the run cannot be resumed
        LOGGER.info(f"Results saved to {colorstr('bold', str(self.folder.path))}")


def run_training(
    options: TrainOptions, folder: RunFolder, around: Surroundings, hyp: dict[str, Any] | None = None,
    resumption: Resumption | None = None,
) -> tuple[Results | None, TrainOptions]:  # fmt: skip
    """One run, arguments as in ``prepare``; its last results (None if a callback stopped it) and final options."""
    loggers: Loggers | None = None
    with ExitStack() as closing:
        if around.world.is_main:
            loggers = Loggers(folder.path, not options.noplots, not options.evolve, options.logger)
            closing.enter_context(around.callbacks.added(loggers))
            closing.callback(loggers.close)
        closing.callback(around.callbacks.run, "teardown")
        closing.callback(folder.writer.finish)
        trainer = Trainer(prepare(options, folder, around, loggers, hyp, resumption), folder, around)
        closing.callback(trainer.close)
        finished = trainer.fit()
        trainer.state.forward = trainer.state.model  # drops the process group, so that its threads can end
        trainer.state.batch_step = None  # and the memory of recorded batches
        if finished and around.world.is_main:
            trainer.finish()
    return (from_first(trainer.results) if finished else None), trainer.run.options


def train(
    options: TrainOptions, networks: Networks, validate: Validation, next_steps: NextSteps,
    callbacks: Callbacks | None = None, resumption: Resumption | None = None,
) -> Results | None:  # fmt: skip
    """The work of train.main; with --evolve one run per generation.

    Args:
        options: of the command.
        networks, validate: see ``interfaces``.
        next_steps: gives the commands to propose at the end, from best.pt and the options of the run.
        callbacks: the user's and the plug-ins'.
        resumption: of an interrupted run, if it has been read already; its options count.

    Returns:
        The results of the best checkpoint, None when a callback stopped the run.
    """
    resumed_folder = Path()
    if options.resume and not options.evolve:
        resumption = resumption or resume_options(options)
        options, resumed_folder = resumption.options, resumption.folder
    with processes(options) as (device, world):
        show_arguments("train", options)
        if resumption is not None:
            resumption.announce()
        LOGGER.info(device_line(device))
        around = Surroundings(networks, validate, device, world, callbacks or Callbacks())
        if options.evolve:
            return evolve(options, lambda chosen, folder, hyp: run_training(chosen, folder, around, hyp)[0])
        with run_folder(options, resumed_folder) as path:
            folder = RunFolder(path)
            results, options = run_training(options, folder, around, resumption=resumption)
    if results is not None:
        log_next(*next_steps(str(folder.best), options, _recorded(folder.best, options, networks)))
    elif advice := resume_flag(folder.last, options.augment):
        LOGGER.info(f"A callback stopped the run; {advice}")
    return results


def _recorded(best: Path, options: TrainOptions, networks: Networks) -> Collection[str]:
    """The options that a command with ``best`` as its weights need not be given."""
    if not best.is_file():  # as with --nosave, on another rank than the first
        return ()
    return recorded_fields(training_record(networks.load_checkpoint(best), best), options)
