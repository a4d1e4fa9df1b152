"""Everything before the first epoch: reading the inputs, cheapest first, and building model, loaders and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from utils.autoanchor import check_anchors
from utils.autobatch import resolve_batch_size
from utils.checks import check_file, check_img_size
from utils.dataset.classes import SINGLE_CLASS, SINGLE_CLASS_NOTE, class_names, is_single_class
from utils.dataset.description import check_dataset
from utils.dataset.labels import class_weights
from utils.dataset.own_augmentation import load_function
from utils.dataset.record import record_of
from utils.device import seed_everything
from utils.distributed import parallel
from utils.drawing.pictures import plot_labels
from utils.log import LOGGER
from utils.loggers import Loggers
from utils.model_info import grid_size
from utils.training.compilation import check_compiler, compile_model
from utils.training.epoch_loader import EpochLoader
from utils.training.hyperparameters import read_hyperparameters, scaled_hyperparameters
from utils.training.interfaces import Surroundings
from utils.training.loaders import training_loader, validation_loader
from utils.training.options import TrainOptions
from utils.training.resume import Resumption, trim_results
from utils.training.resume_checks import Counters, judge
from utils.training.resume_record import check_names, restore
from utils.training.run_folder import RunFolder
from utils.training.state import Run, TrainingState, build_state


@dataclass(frozen=True)
class Prepared:
    """A run before its first epoch; the first rank alone validates, and has a loader for it."""

    state: TrainingState
    val_loader: EpochLoader | None


@dataclass(frozen=True)
class Inputs:
    """The files of a run, read and checked.

    Attributes:
        options: of the command, with --single-cls as the checkpoint needs it.
        data: the checked data set.
        names: of the classes.
        hyp: hyperparameters, unscaled.
        checkpoint: that the run starts from, None from scratch.
        counters: of the interrupted run that is resumed, else None.
    """

    options: TrainOptions
    data: dict[str, Any]
    names: list[str]
    hyp: dict[str, Any]
    checkpoint: dict[str, Any] | None
    counters: Counters | None


def prepare(
    options: TrainOptions, folder: RunFolder, around: Surroundings, loggers: Loggers | None,
    hyp: dict[str, Any] | None = None, resumption: Resumption | None = None,
) -> Prepared:  # fmt: skip
    """Build a run.

    Args:
        options: of the command.
        folder: of the run.
        around: networks, validation, hooks and device.
        loggers: on the first rank.
        hyp: hyperparameters instead of those in ``options.hyp``.
        resumption: of an interrupted run, whose options these are.

    Raises:
        InputError: an input that no run can use; most are found before anything is written.
    """
    if options.compile:
        check_compiler(around.device)
    if options.augment:
        load_function(options.augment)
    around.callbacks.run("on_pretrain_routine_start")
    inputs = _read_inputs(options, around, hyp, resumption)
    run, model = _make_run(inputs, around)
    if run.is_main:
        folder.start(run.options, inputs.hyp)
    prepared = _build(run, model)
    state = prepared.state
    state.loggers = loggers
    state.folder = folder.path
    if inputs.counters is not None and inputs.checkpoint is not None:
        restore(inputs.checkpoint, inputs.counters, state, options.start_file)
        state.best.saved = folder.best.exists()
        if loggers is not None:
            trim_results(loggers.csv, state.first_epoch)
            loggers.resume_at(state.first_epoch)
    elif run.is_main:
        _fit_anchors(state, keep=_keeps_anchors(inputs, around, model))
        if run.plots:
            plot_labels(np.concatenate(state.loader.dataset.labels, 0), run.names, folder.path)
    state.forward = parallel(model, run.device, run.options.sync_bn)
    if run.options.compile:
        compile_model(model)
    if run.is_main:
        run.callbacks.run("on_pretrain_routine_end")
    return prepared


def _read_inputs(
    options: TrainOptions, around: Surroundings, hyp: dict[str, Any] | None, resumption: Resumption | None
) -> Inputs:
    """Read data set, checkpoint and hyperparameters."""
    if resumption is not None:
        data = resumption.dataset()
    else:
        data = check_dataset(options.data, allow_scripts=options.allow_download_scripts)
    checkpoint = around.networks.load_checkpoint(options.start_file) if options.start_file else None
    unscaled_hyp = read_hyperparameters(hyp or check_file(options.hyp))
    options = _with_class_mode(options, data, checkpoint)
    names = [SINGLE_CLASS] if options.single_cls and data["nc"] != 1 else list(data["names"].values())
    counters = None
    if options.resume and checkpoint is not None:
        counters = judge(checkpoint, options.start_file)
        check_names(checkpoint["model"], names, options.start_file, options.data)
    return Inputs(options, data, names, unscaled_hyp, checkpoint, counters)


def _make_run(inputs: Inputs, around: Surroundings) -> tuple[Run, nn.Module]:
    """Seed the random numbers, build the network, and derive the sizes of the run from it."""
    options, class_count = inputs.options, len(inputs.names)
    seed_everything(options.seed)
    model: Any = around.networks.build_model(options, dict(inputs.hyp), class_count, inputs.checkpoint)
    model.to(around.device)
    around.networks.freeze_layers(model, options.freeze)
    grid_side = grid_size(model)
    image_size = check_img_size(options.imgsz, grid_side, floor=grid_side * 2)
    levels = model.model[-1].nl
    run = Run(
        options=resolve_batch_size(options, model, image_size, around.device, around.callbacks),
        data=inputs.data,
        names=inputs.names,
        hyp=scaled_hyperparameters(inputs.hyp, levels, class_count, image_size, options.label_smoothing),
        unscaled_hyp=inputs.hyp,
        image_size=image_size,
        grid_size=grid_side,
        device=around.device,
        world=around.world,
        callbacks=around.callbacks,
    )
    return run, model


def _with_class_mode(options: TrainOptions, data: dict[str, Any], checkpoint: dict[str, Any] | None) -> TrainOptions:
    """The options with --single-cls if the run continues with a trained head that has one class."""
    if not options.keeps_anchors or checkpoint is None or options.single_cls:
        return options
    if not is_single_class(class_names(checkpoint["model"]), data["nc"]):
        return options
    LOGGER.info(SINGLE_CLASS_NOTE.format(options.weights))
    return replace(options, single_cls=True)


def _build(run: Run, model: Any) -> Prepared:
    """Make the loaders, give the model the attributes that checkpoints carry, and make the state."""
    loader = EpochLoader(training_loader(run))
    val_loader: EpochLoader | None = None
    if run.is_main:
        val_loader = EpochLoader(validation_loader(run))
        if not run.options.noval:
            loader.near_end = val_loader.begin_next
    model.nc, model.hyp, model.names = len(run.names), run.hyp, run.names
    model.class_weights = class_weights(loader.dataset.labels, model.nc).to(run.device) * model.nc
    state = build_state(run, model, loader)
    if val_loader is not None:
        state.image_records = {"train": record_of(loader.dataset), "val": record_of(val_loader.dataset)}
    return Prepared(state, val_loader)


def _keeps_anchors(inputs: Inputs, around: Surroundings, model: nn.Module) -> bool:
    """Tell whether the anchors must stay because the run continues with the trained head that means them."""
    if inputs.checkpoint is None or not inputs.options.keeps_anchors:
        return False
    return around.networks.has_head_of(model, inputs.checkpoint["model"])


def _fit_anchors(state: TrainingState, keep: bool) -> None:
    """Check the anchors against the labels, and replace bad ones unless they are to ``keep``."""
    run, model = state.run, state.model
    if run.options.noautoanchor:
        return
    check_anchors(state.loader.dataset, model, run.hyp["anchor_t"], run.image_size, run.options.seed, replace=not keep)
    average: Any = state.ema.ema
    trained: Any = model
    average.model[-1].anchors.copy_(trained.model[-1].anchors)
