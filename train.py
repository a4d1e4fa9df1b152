#!/usr/bin/env python3
"""Train a YOLOv5 detector.

    python train.py --data data/mask.yaml --weights yolov5n.pt --imgsz 320 --batch-size 64 --epochs 200
    python train.py --data data/mask.yaml --weights '' --cfg models/yolov5n_mask.yaml
    python train.py --resume runs/train/exp/weights/last.pt
    torchrun --nproc_per_node 4 train.py --data data/coco.yaml --weights yolov5s.pt --batch-size 64

A pruned checkpoint (pruned_model.pt) is trained like any other: its widths are part of its configuration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.commands.cli import run_training_command, show_arguments
from utils.commands.next_steps import following, log_next
from utils.commands.options import build
from utils.dataset.classes import SINGLE_CLASS, SINGLE_CLASS_NOTE, class_names, is_single_class
from utils.log import LOGGER, colorstr
from utils.training.hyperparameters import read_hyperparameters, scale_gains
from utils.training.options import TrainOptions

if TYPE_CHECKING:
    import torch

    from utils.callbacks import Callbacks
    from utils.distributed import World
    from utils.loggers import Loggers
    from utils.training.resume import Resumption
    from utils.training.run_folder import RunFolder
    from utils.training.state import TrainingState

NextSteps = Callable[[str, Any], Sequence[str]]
Results = tuple[float, ...]  # P, R, mAP50, mAP50-95, box loss, objectness loss, class loss
NOTHING: Results = (0.0,) * 7
CHECKPOINT_ATTRIBUTES = ["yaml", "nc", "hyp", "names", "stride", "class_weights"]


class Trainer:
    """One training run: ``prepare`` builds everything, ``fit`` runs the epochs, ``finish`` strips and validates.

    Of several ranks each trains; the first one alone validates, reports and writes.
    """

    def __init__(
        self, options: TrainOptions, folder: RunFolder, hyp: dict[str, Any] | None, callbacks: Callbacks,
        device: torch.device, world: World, resumption: Resumption | None = None,
    ) -> None:  # fmt: skip
        """Keep the options; nothing is read or written before ``prepare``. ``hyp`` goes before ``options.hyp``.

        ``resumption`` is that of an interrupted run, whose options these are.
        """
        self.options, self.folder, self.given_hyp = options, folder, hyp
        self.callbacks, self.device, self.world, self.resumption = callbacks, device, world, resumption
        self.start_epoch = 0
        self.results = NOTHING
        self.maps: list[float] = []  # mAP50-95 of each class, as of the last validation
        self.state: TrainingState
        self.loggers: Loggers | None = None

    def run(self) -> Results | None:
        """The whole run; returns the last results, or None when a callback stopped it."""
        from utils.distributed import from_first

        try:
            self.prepare()
            finished = self.fit()
            self.state.forward = self.state.model  # lets go of the group, so that its threads can end
            self.state.batch_step = None  # and of the memory of its recordings
            if finished and self.world.is_main:
                self.finish()
        finally:
            self.callbacks.run("teardown")
            if self.loggers is not None:
                self.loggers.close()
        return from_first(self.results) if finished else None

    # -- before the first epoch ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read the inputs, cheapest first, and build model, loaders, optimizer and loggers."""
        from models.loading import load_checkpoint
        from models.transfer import build_model, freeze_layers
        from utils.autobatch import resolve_batch_size
        from utils.checks import check_dataset, check_file, check_img_size
        from utils.device import seed_everything
        from utils.distributed import parallel
        from utils.training.compilation import check_compiler, compile_model

        options = self.options
        if options.compile:
            check_compiler(self.device)
        self.callbacks.run("on_pretrain_routine_start")
        if self.resumption is not None:
            self.data = self.resumption.dataset()
        else:
            self.data = check_dataset(options.data, allow_scripts=options.allow_download_scripts)
        weights = options.resume or options.weights
        checkpoint = load_checkpoint(weights) if weights else None
        self.hyp = read_hyperparameters(self.given_hyp or check_file(options.hyp))
        self.unscaled_hyp = dict(self.hyp)
        seed_everything(options.seed)

        trained = checkpoint["model"] if options.keeps_anchors and checkpoint is not None else None
        if trained is not None and not options.single_cls and is_single_class(class_names(trained), self.data["nc"]):
            # A run that continues with a trained head has the classes of that head
            self.options = options = replace(options, single_cls=True)
            LOGGER.info(SINGLE_CLASS_NOTE.format(options.weights))
        self.names = (
            [SINGLE_CLASS] if options.single_cls and self.data["nc"] != 1 else list(self.data["names"].values())
        )
        if options.resume and checkpoint is not None:
            from utils.training.resume_record import check_names, judge

            self.counters = judge(checkpoint, options.resume)
            check_names(checkpoint["model"], self.names, options.resume, options.data)
        model = build_model(options, dict(self.hyp), len(self.names), checkpoint).to(self.device)
        freeze_layers(model, options.freeze)
        self.grid_size = max(int(model.stride.max()), 32)
        self.image_size = check_img_size(options.imgsz, self.grid_size, floor=self.grid_size * 2)
        self.options = resolve_batch_size(options, model, self.image_size, self.device, self.callbacks)
        if self.world.is_main:
            self._open_folder()
        self._build_loaders()
        self._set_model_attributes(model)
        self._build_state(model)
        if options.resume and checkpoint is not None:
            self._restore(checkpoint)
        elif self.world.is_main:
            self._study_labels(model, checkpoint)
        self.state.forward = parallel(model, self.device, options.sync_bn)
        if options.compile:
            compile_model(model)
        if self.world.is_main:
            self.callbacks.run("on_pretrain_routine_end")

    def _open_folder(self) -> None:
        from utils.loggers import Loggers

        self.folder.start(self.options, self.unscaled_hyp)
        self.loggers = Loggers(self.folder.path, plots=not self.options.noplots, tensorboard=not self.options.evolve)
        self.loggers.register(self.callbacks)

    def _build_loaders(self) -> None:
        from utils.dataloaders import training_loader, validation_loader
        from utils.training.epoch_loader import EpochLoader

        place = self.options, self.data, self.image_size, self.grid_size, self.hyp, self.names, self.world
        self.train_loader = EpochLoader(training_loader(*place, self.device))
        self.dataset: Any = self.train_loader.dataset
        if self.world.is_main:
            self.val_loader = EpochLoader(validation_loader(*place, self.device))
            if not self.options.noval:
                self.train_loader.near_end = self.val_loader.begin_next

    def _set_model_attributes(self, model: Any) -> None:
        """Attach what checkpoints carry along: nc, hyp (scaled), names, class weights."""
        from utils.dataset.labels import class_weights

        scale_gains(self.hyp, model.model[-1].nl, len(self.names), self.image_size, self.options.label_smoothing)
        model.nc, model.hyp, model.names = len(self.names), self.hyp, self.names
        model.class_weights = class_weights(self.dataset.labels, model.nc).to(self.device) * model.nc

    def _build_state(self, model: torch.nn.Module) -> None:
        from utils.dataset.record import record_of
        from utils.training.optim import EarlyStopping
        from utils.training.state import build_state

        self.stopper = EarlyStopping(self.options.patience)
        self.state = build_state(
            model, self.options, self.hyp, self.train_loader, callbacks=self.callbacks, device=self.device,
            image_size=self.image_size, grid_size=self.grid_size, ranks=self.world.size, is_main=self.world.is_main,
            plots=not self.options.noplots,
        )  # fmt: skip
        if self.world.is_main:
            self.state.data = {"train": record_of(self.dataset), "val": record_of(self.val_loader.dataset)}

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        """Continue exactly where last.pt was written: weights, optimizer, EMA, random numbers, best fitness."""
        from utils.training.resume import trim_results
        from utils.training.resume_record import restore

        restored = restore(checkpoint, self.counters, self.state, self.stopper, self.options.resume)
        self.start_epoch, self.folder.best_fitness, self.maps = restored
        if self.loggers is not None:
            trim_results(self.loggers.csv, self.start_epoch)
            self.loggers.first_epoch = self.start_epoch

    def _study_labels(self, model: Any, checkpoint: dict[str, Any] | None) -> None:
        """Adapt the anchors to the labels, unless they are to stay, and draw what the labels are like."""
        import numpy as np

        from models.transfer import has_head_of
        from utils.autoanchor import check_anchors
        from utils.drawing.pictures import plot_labels

        if not self.options.noautoanchor:
            trained = checkpoint is not None and has_head_of(model, checkpoint["model"])
            replace = not (trained and self.options.keeps_anchors)
            place = self.hyp["anchor_t"], self.image_size, self.options.seed
            check_anchors(self.dataset, model, *place, replace=replace)
            self.state.ema.ema.model[-1].anchors.copy_(model.model[-1].anchors)  # type: ignore[union-attr, index]
        if not self.options.noplots:
            plot_labels(np.concatenate(self.dataset.labels, 0), self.names, self.folder.path)

    # -- the epochs ------------------------------------------------------------------------------------------------

    def fit(self) -> bool:
        """Run the epochs; False when a callback stopped the run before its end."""
        from utils.training.engine import train_one_epoch

        state, options, started = self.state, self.options, time.time()
        LOGGER.info(
            f"Image sizes {self.image_size} train, {self.image_size} val\n"
            f"Using {self.train_loader.num_workers * self.world.size} dataloader workers\n"
            f"Logging results to {colorstr('bold', str(self.folder.path))}\n"
            f"Starting training for {options.epochs} epochs..."
        )
        self.callbacks.run("on_training_ready", state)
        self.callbacks.run("on_train_start")
        state.epoch, stop = self.start_epoch - 1, self.stopper.stopped
        while state.epoch + 1 < options.epochs and not stop:
            state.epoch += 1
            if options.image_weights:
                self.dataset.draw_by_weight(self._class_weights(), state.random_of_batch(state.epoch))
            losses = train_one_epoch(state)
            if losses is None:
                return False
            if state.epoch + 1 < options.epochs:
                self.train_loader.begin_next()
            rates = [group["lr"] for group in state.optimizer.param_groups]
            self._set_learning_rates()
            stop = self._end_epoch([*losses], rates)
        epochs, hours = state.epoch - self.start_epoch + 1, (time.time() - started) / 3600
        LOGGER.info(f"\n{epochs} epochs completed in {hours:.3f} hours.")
        return True

    def _class_weights(self) -> Any:
        """Weight (nc,) of each class for --image-weights: rare ones count more, and those that are detected badly."""
        import numpy as np

        model: Any = self.state.model
        return model.class_weights.cpu().numpy() * (1 - np.array(self.maps or [0.0])) ** 2 / model.nc

    def _set_learning_rates(self) -> None:
        """Rates of the next epoch. As published, they follow the schedule one epoch late."""
        for group in self.state.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.state.learning_rate_factor(self.state.epoch)

    def _end_epoch(self, losses: list[float], rates: list[float]) -> bool:
        """Validation, fitness, callbacks, checkpoints; returns whether early stopping ends the run."""
        import numpy as np

        from utils.distributed import from_first
        from utils.metrics import fitness

        state, options, epoch = self.state, self.options, self.state.epoch
        state.writer = self.loggers.writer if self.loggers is not None else None  # loads TensorBoard
        self.callbacks.run("on_train_epoch_end", epoch=epoch)
        state.ema.update_attr(state.model, include=CHECKPOINT_ATTRIBUTES)
        final = epoch + 1 == options.epochs or self.stopper.possible_stop
        if not options.noval or final:
            results, maps, _ = from_first(
                self._validate(state.ema.ema) if self.world.is_main else (NOTHING, NOTHING, ())
            )
            self.results, self.maps = results, [*map(float, maps)]
        current = float(fitness(np.array(self.results).reshape(1, -1))[0])
        improved, best = self.folder.rate(current, state, self.stopper), self.folder.best_fitness
        stop = self.stopper(epoch=epoch, fitness=current)
        self.callbacks.run("on_fit_epoch_end", [*losses, *self.results, *rates], epoch, best, current)
        if not self.world.is_main:
            self.folder.saved_best |= improved
        elif not options.nosave or (final and not options.evolve):
            self.folder.save(state, self.stopper, options, self.unscaled_hyp, improved, self.maps)
            self.callbacks.run("on_model_save", self.folder.last, epoch, final, best, current)
        return stop

    def _validate(self, model: torch.nn.Module, **keywords: Any) -> tuple[Results, Any, Any]:
        import val

        defaults: dict[str, Any] = {
            "plots": False,
            "compute_loss": self.state.compute_loss,
            "callbacks": self.callbacks,
        }
        return val.run(
            self.data, batch_size=self.val_loader.batch_size, imgsz=self.image_size, model=model,
            half=self.state.mixed_precision and self.device.type == "cuda", single_cls=self.options.single_cls,
            dataloader=self.val_loader, save_dir=self.folder.path, **(defaults | keywords),
        )  # fmt: skip

    # -- after the last epoch --------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Strip the checkpoints, validate best.pt once more with plots, and say where everything is.

        last.pt is stripped when all else is done: what is broken off before can be resumed.
        """
        from models.loading import attempt_load, strip_optimizer

        last, best, plots = self.folder.last, self.folder.best, not self.options.noplots
        if self.folder.saved_best:
            strip_optimizer(best)
            LOGGER.info(f"\nValidating {best}...")
            self.results, _, _ = self._validate(attempt_load(best, self.device), plots=plots, verbose=True)
        self.callbacks.run("on_train_end", last, best, plots, self.state.epoch, self.results)
        if self.folder.saved_best:
            strip_optimizer(last)  # from here on the run cannot be resumed
        LOGGER.info(f"Results saved to {colorstr('bold', str(self.folder.path))}")


def main(
    options: TrainOptions, callbacks: Callbacks | None = None, next_steps: NextSteps | None = None,
    resumption: Resumption | None = None,
) -> Results | None:  # fmt: skip
    """Train with ``options``; returns the results of the best checkpoint, or None when a callback stopped the run.

    --evolve trains once for each generation and returns the results of the best one.

    ``next_steps`` gives the commands to propose at the end, from best.pt and the options of the run.
    """
    from utils.callbacks import Callbacks
    from utils.device import device_line
    from utils.distributed import processes
    from utils.training.evolve import evolve
    from utils.training.resume import resume_options
    from utils.training.run_folder import RunFolder, run_folder

    folder, callbacks = Path(), callbacks or Callbacks()
    if options.resume and not options.evolve:
        resumption = resumption or resume_options(options)
        options, folder = resumption.options, resumption.folder
    with processes(options) as (device, world):
        show_arguments("train", options)
        if resumption is not None:
            resumption.announce()
        LOGGER.info(device_line(device))
        if options.evolve:
            return evolve(
                options, lambda chosen, place, hyp: Trainer(chosen, place, hyp, callbacks, device, world).run()
            )
        with run_folder(options, folder) as folder:
            trainer = Trainer(options, RunFolder(folder), None, callbacks, device, world, resumption)
            results = trainer.run()
    log_next(*(next_steps or steps_after_training)(str(trainer.folder.best), trainer.options))
    return results


def steps_after_training(best: str, options: TrainOptions) -> list[str]:
    """Validation, and sparse training the way that costs least accuracy: with the model itself as teacher."""
    from val import ValOptions

    sparsely = {"penalty": "polarize", "target_flops": "0.5", "teacher": best}
    return [
        following("val.py", ValOptions, options, weights=best),
        following("prune_tools/train_sparity.py", TrainOptions, options, weights=best, more=sparsely),
    ]


def run(callbacks: Callbacks | None = None, **keywords: Any) -> TrainOptions:
    """Train from Python, ``train.run(data='mask.yaml', epochs=3)``: the command line's flags as keywords."""
    options = build(TrainOptions, **keywords)
    main(options, callbacks)
    return options


if __name__ == "__main__":
    run_training_command(main, TrainOptions, "Train a YOLOv5 detector.")
