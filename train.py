#!/usr/bin/env python3
"""Train a YOLOv5 detector.

    python train.py --data data/mask.yaml --weights yolov5n.pt --imgsz 320 --batch-size 64 --epochs 200
    python train.py --data data/mask.yaml --weights '' --cfg models/yolov5n_mask.yaml
    python train.py --resume runs/train/exp/weights/last.pt

A pruned checkpoint (pruned_model.pt) is trained like any other: its widths are part of its configuration.
"""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli import run_command, show_arguments
from utils.config import TrainOptions, build, parse, read_hyperparameters, scale_gains, to_dict
from utils.files import increment_path, make_folder, write_yaml
from utils.log import LOGGER, colorstr

if TYPE_CHECKING:
    import torch

    from utils.callbacks import Callbacks
    from utils.engine import TrainingState
    from utils.loggers import Loggers

Results = tuple[float, ...]  # P, R, mAP50, mAP50-95, box loss, objectness loss, class loss


def start_run(options: TrainOptions, run_folder: Path) -> dict[str, Any]:
    """Create the run folder, write hyp.yaml and opt.yaml into it, and return the hyperparameters."""
    from utils.checks import check_file

    hyp = read_hyperparameters(check_file(options.hyp))
    make_folder(run_folder / "weights")
    if not options.resume:
        (run_folder / "results.csv").unlink(missing_ok=True)  # of an earlier run, with --exist-ok
    write_yaml(run_folder / "hyp.yaml", hyp)
    write_yaml(run_folder / "opt.yaml", {**to_dict(options), "hyp": hyp, "save_dir": str(run_folder)})
    return hyp


class Trainer:
    """One training run: ``prepare`` builds everything, ``fit`` runs the epochs, ``finish`` strips and validates."""

    def __init__(self, options: TrainOptions, callbacks: Callbacks, run_folder: Path) -> None:
        """Keep the options; nothing is read or written before ``prepare``."""
        self.options, self.callbacks, self.folder = options, callbacks, run_folder
        self.last, self.best = run_folder / "weights/last.pt", run_folder / "weights/best.pt"
        self.start_epoch, self.best_fitness, self.saved_best = 0, 0.0, False
        self.results: Results = (0.0,) * 7
        self.state: TrainingState
        self.loggers: Loggers

    # -- before the first epoch ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read the inputs, cheapest first, and build model, loaders, optimizer and loggers."""
        from models.loading import load_checkpoint
        from models.transfer import build_model, freeze_layers
        from utils.checks import check_dataset, check_img_size
        from utils.device import seed_everything, select_device
        from utils.loggers import Loggers

        options = self.options
        self.callbacks.run("on_pretrain_routine_start")
        self.device = select_device(options.device, options.batch_size)
        self.data = check_dataset(options.data, allow_scripts=options.allow_download_scripts)
        weights = options.resume or options.weights
        checkpoint = load_checkpoint(weights) if weights else None
        self.hyp = start_run(options, self.folder)
        seed_everything(options.seed)
        self.loggers = Loggers(self.folder, plots=not options.noplots)
        self.loggers.register(self.callbacks)

        self.names = ["item"] if options.single_cls and self.data["nc"] != 1 else list(self.data["names"].values())
        model = build_model(options, dict(self.hyp), len(self.names), checkpoint).to(self.device)
        freeze_layers(model, options.freeze)
        self.grid_size = max(int(model.stride.max()), 32)
        self.image_size = check_img_size(options.imgsz, self.grid_size, floor=self.grid_size * 2)
        self._build_loaders()
        self._set_model_attributes(model)
        self._build_state(model)
        if options.resume and checkpoint is not None:
            self._restore(checkpoint)
        elif not options.noautoanchor:
            from utils.autoanchor import check_anchors

            check_anchors(self.dataset, model=model, thr=self.hyp["anchor_t"], imgsz=self.image_size)
        if not options.resume and not options.noplots:
            self._plot_labels()
        self.callbacks.run("on_pretrain_routine_end")

    def _build_loaders(self) -> None:
        from utils.dataloaders import create_dataloader
        from utils.labels import check_class_indices

        options = self.options
        common = {"single_cls": options.single_cls, "hyp": self.hyp, "cache": options.cache, "seed": options.seed}
        self.train_loader, self.dataset = create_dataloader(
            self.data["train"], self.image_size, options.batch_size, self.grid_size, augment=True, rect=options.rect,
            workers=options.workers, prefix=colorstr("train: "), shuffle=not options.rect, **common,
        )  # fmt: skip
        check_class_indices(self.dataset, len(self.names), self.names)
        self.val_loader, val_set = create_dataloader(
            self.data["val"], self.image_size, options.batch_size * 2, self.grid_size, rect=True, pad=0.5,
            workers=options.workers * 2, prefix=colorstr("val: "), **common,
        )  # fmt: skip
        check_class_indices(val_set, len(self.names), self.names)

    def _set_model_attributes(self, model: Any) -> None:
        """Attach what checkpoints carry along: nc, hyp (scaled), names, class weights."""
        from utils.labels import class_weights

        self.unscaled_hyp = dict(self.hyp)
        scale_gains(self.hyp, model.model[-1].nl, len(self.names), self.image_size, self.options.label_smoothing)
        model.nc, model.hyp, model.names = len(self.names), self.hyp, self.names
        model.class_weights = class_weights(self.dataset.labels, model.nc).to(self.device) * model.nc

    def _build_state(self, model: Any) -> None:
        import torch

        from utils.engine import NOMINAL_BATCH_SIZE, TrainingState
        from utils.loss import ComputeLoss
        from utils.optim import EarlyStopping, ModelEMA, linear_schedule, one_cycle, smart_optimizer

        options, hyp = self.options, self.hyp
        accumulate = max(round(NOMINAL_BATCH_SIZE / options.batch_size), 1)
        decay = hyp["weight_decay"] * options.batch_size * accumulate / NOMINAL_BATCH_SIZE
        optimizer = smart_optimizer(model, options.optimizer, hyp["lr0"], hyp["momentum"], decay)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        schedule = (
            one_cycle(1, hyp["lrf"], options.epochs) if options.cos_lr else linear_schedule(hyp["lrf"], options.epochs)
        )
        model.to(memory_format=torch.channels_last)
        self.stopper = EarlyStopping(options.patience)
        self.state = TrainingState(
            model=model, ema=ModelEMA(model), optimizer=optimizer, compute_loss=ComputeLoss(model),
            scaler=torch.amp.GradScaler(self.device.type, enabled=self.device.type == "cuda"), loader=self.train_loader,
            callbacks=self.callbacks, device=self.device, hyp=hyp, learning_rate_factor=schedule, epochs=options.epochs,
            batch_size=options.batch_size, image_size=self.image_size, grid_size=self.grid_size,
            multi_scale=options.multi_scale, plots=not options.noplots, writer=self.loggers.writer,
        )  # fmt: skip

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        """Continue exactly where last.pt was written: weights, optimizer, EMA, random numbers, best fitness."""
        from utils.resume import restore, trim_results

        self.start_epoch, self.best_fitness = restore(checkpoint, self.state, self.stopper, self.options.resume)
        self.saved_best = self.best.exists()
        trim_results(self.folder / "results.csv", self.start_epoch)

    def _plot_labels(self) -> None:
        import numpy as np

        from utils.plots import plot_labels

        plot_labels(np.concatenate(self.dataset.labels, 0), self.names, self.folder)

    # -- the epochs ------------------------------------------------------------------------------------------------

    def fit(self) -> bool:
        """Run the epochs; False when a callback stopped the run before its end."""
        from utils.engine import train_one_epoch

        state, options, started = self.state, self.options, time.time()
        LOGGER.info(
            f"Image sizes {self.image_size} train, {self.image_size} val\n"
            f"Using {self.train_loader.num_workers} dataloader workers\n"
            f"Logging results to {colorstr('bold', str(self.folder))}\n"
            f"Starting training for {options.epochs} epochs..."
        )
        self.callbacks.run("on_training_ready", state)
        self.callbacks.run("on_train_start")
        state.epoch = self.start_epoch - 1
        for epoch in range(self.start_epoch, options.epochs):
            state.epoch = epoch
            losses = train_one_epoch(state)
            if losses is None:
                return False
            rates = [group["lr"] for group in state.optimizer.param_groups]
            self._set_learning_rates(epoch)
            self.callbacks.run("on_train_epoch_end", epoch=epoch)
            state.ema.update_attr(state.model, include=["yaml", "nc", "hyp", "names", "stride", "class_weights"])
            final = epoch + 1 == options.epochs or self.stopper.possible_stop
            if not options.noval or final:
                self.results, _, _ = self._validate(state.ema.ema)
            if self._end_epoch(epoch, [*losses, *self.results, *rates], final):
                break
        epochs, hours = state.epoch - self.start_epoch + 1, (time.time() - started) / 3600
        LOGGER.info(f"\n{epochs} epochs completed in {hours:.3f} hours.")
        return True

    def _set_learning_rates(self, epoch: int) -> None:
        """Rates of the next epoch. As published, they follow the schedule one epoch late."""
        for group in self.state.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.state.learning_rate_factor(epoch)

    def _end_epoch(self, epoch: int, values: list[float], final: bool) -> bool:
        """Fitness, callbacks, checkpoints; returns whether early stopping ends the run."""
        import numpy as np

        from utils.metrics import fitness

        current = float(fitness(np.array(self.results).reshape(1, -1))[0])
        if self.state.grade > self.state.best_grade:  # fitter epochs of a lower grade no longer count
            self.state.best_grade, self.best_fitness, self.saved_best = self.state.grade, 0.0, False
            self.stopper.best_fitness = -1.0
        stop = self.stopper(epoch=epoch, fitness=current)
        comparable = self.state.grade == self.state.best_grade
        improved = (comparable and current > self.best_fitness) or not self.saved_best
        self.best_fitness = max(current, self.best_fitness) if improved else self.best_fitness
        self.callbacks.run("on_fit_epoch_end", values, epoch, self.best_fitness, current)
        if not self.options.nosave or final:
            self._save(epoch, improved)
            self.callbacks.run("on_model_save", self.last, epoch, final, self.best_fitness, current)
        return stop

    def _save(self, epoch: int, improved: bool) -> None:
        from utils.checkpoint import save_checkpoint
        from utils.resume import snapshot

        state, period = self.state, self.options.save_period
        checkpoint = {
            "epoch": epoch,
            "best_fitness": self.best_fitness,
            "model": state.model,
            "ema": state.ema.ema,
            "updates": state.ema.updates,
            "optimizer": state.optimizer.state_dict(),
            "wandb_id": None,
            "opt": {**to_dict(self.options), "hyp": self.unscaled_hyp, "save_dir": str(self.folder)},
            "date": datetime.now().isoformat(),
            "resume": snapshot(state, self.stopper),
        }
        targets = [self.last]
        if improved:
            targets.append(self.best)
            self.saved_best = True
        if period > 0 and epoch % period == 0:
            targets.append(self.folder / f"weights/epoch{epoch}.pt")
        for target in targets:
            save_checkpoint(checkpoint, target)

    def _validate(self, model: torch.nn.Module, **keywords: Any) -> tuple[Results, Any, Any]:
        import val

        defaults: dict[str, Any] = {
            "plots": False,
            "compute_loss": self.state.compute_loss,
            "callbacks": self.callbacks,
        }
        return val.run(
            self.data, batch_size=self.options.batch_size * 2, imgsz=self.image_size, model=model,
            half=self.state.mixed_precision, single_cls=self.options.single_cls, dataloader=self.val_loader,
            save_dir=self.folder, **(defaults | keywords),
        )  # fmt: skip

    # -- after the last epoch --------------------------------------------------------------------------------------

    def finish(self) -> Results:
        """Strip the checkpoints, validate best.pt once more with plots, and say where everything is."""
        from models.experimental import attempt_load
        from utils.checkpoint import strip_optimizer

        strip_optimizer(self.last)
        if self.saved_best:
            strip_optimizer(self.best)
        if self.saved_best:
            LOGGER.info(f"\nValidating {self.best}...")
            model = attempt_load(self.best, self.device)
            plots = not self.options.noplots
            self.results, _, _ = self._validate(model, plots=plots, verbose=True)
        self.callbacks.run(
            "on_train_end", self.last, self.best, not self.options.noplots, self.state.epoch, self.results
        )
        LOGGER.info(f"Results saved to {colorstr('bold', str(self.folder))}")
        return self.results


def main(options: TrainOptions, callbacks: Callbacks | None = None, next_step: str = "") -> Results | None:
    """Train with ``options``; returns the results of the best checkpoint, or None when a callback stopped the run.

    ``next_step`` is logged last and may name ``{best}`` and ``{last}``; by default the val and sparse commands.
    """
    from utils.callbacks import Callbacks
    from utils.device import device_line, select_device

    show_arguments("train", options)
    if options.resume:
        from utils.resume import resume_options

        options, run_folder = resume_options(options)
    else:
        run_folder = increment_path(Path(options.project) / options.name, exist_ok=options.exist_ok)
    LOGGER.info(device_line(select_device(options.device, options.batch_size)))
    trainer = Trainer(options, callbacks or Callbacks(), run_folder)
    try:
        trainer.prepare()
        finished = trainer.fit()
        results = trainer.finish() if finished else None
    finally:
        if hasattr(trainer, "loggers"):
            trainer.loggers.close()
    advice = next_step or (
        "Next: python val.py --weights {best} --data {data} --imgsz {imgsz}"
        "\n  or: python prune_tools/train_sparity.py --weights {best} --data {data} --imgsz {imgsz}"
    )
    LOGGER.info(advice.format(best=trainer.best, last=trainer.last, data=options.data, imgsz=options.imgsz))
    return results


def run(callbacks: Callbacks | None = None, **keywords: Any) -> TrainOptions:
    """Train from Python, ``train.run(data='mask.yaml', epochs=3)``: the command line's flags as keywords."""
    options = build(TrainOptions, **keywords)
    main(options, callbacks)
    return options


if __name__ == "__main__":
    run_command(lambda: main(parse(TrainOptions, "Train a YOLOv5 detector.")))
