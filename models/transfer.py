"""The networks of a training run: reading, building with inherited weights, writing (``utils.training.interfaces``)."""

from __future__ import annotations

from typing import Any

import torch

from models.checkpoints.soundness import PICTURE_CHANNELS, check_channels, check_unfused
from models.configuration import read_config
from models.description import describe_file
from models.loading import attempt_load, load_checkpoint, strip_optimizer
from models.module_settings import differences
from models.yolo import DetectionModel
from utils.checkpoint import copy_matching
from utils.checks import check_file
from utils.distributed import plain_norms
from utils.errors import InputError
from utils.log import LOGGER
from utils.training.options import TrainOptions

__all__ = ["attempt_load", "build_model", "freeze_layers", "has_head_of", "load_checkpoint", "strip_optimizer"]


def build_model(
    options: TrainOptions, hyp: dict[str, Any], class_count: int, checkpoint: dict[str, Any] | None
) -> DetectionModel:
    """The network to train: from --cfg, else the one of the checkpoint as it is, with the weights that fit.

    Raises:
        InputError: neither --weights nor --cfg; a network that cannot be trained (fused, other channels than three) or
            that no configuration describes; or a pruned checkpoint whose widths --cfg contradicts.
    """
    cfg = check_file(options.cfg) if options.cfg and not options.resume else None
    if checkpoint is None:
        if not cfg:
            raise InputError(
                "nothing to train: give --weights CHECKPOINT.pt, or --cfg MODEL.yaml to start from scratch"
            )
        model = DetectionModel(cfg, ch=PICTURE_CHANNELS, nc=class_count, anchors=hyp.get("anchors"))
        check_channels(model, cfg)
        return model

    file = options.start_file
    source = checkpoint["model"].float()
    plain_norms(source)
    check_channels(source, file)
    check_unfused(source, file)
    if cfg:
        pruned = (getattr(source, "yaml", None) or {}).get("channels")
        if pruned and read_config(cfg).get("channels") != pruned:
            raise InputError(f"{file} is a pruned model whose widths {cfg} does not have: leave out --cfg")
    config = cfg or describe_file(source, file)
    model = DetectionModel(config, ch=PICTURE_CHANNELS, nc=class_count, anchors=hyp.get("anchors"))
    check_channels(model, cfg or file)
    new_anchors = _takes_new_anchors(options, hyp, model, source)
    copied, total = copy_matching(source.state_dict(), model, exclude=["anchor"] if new_anchors else [])
    LOGGER.info(f"Transferred {copied}/{total} items from {file}")
    if new_anchors and _same_outputs(model, source) and not has_head_of(model, source):
        LOGGER.info(f"The anchors are those of {cfg or '--hyp'}, not those in {file}")
    if copied == 0:
        raise InputError(f"no weight of {file} fits {cfg}: choose the configuration that it was trained with")
    if cfg:
        _warn_of_other_modules(model, source, cfg, file)
    elif model.stride.shape != source.stride.shape or not torch.allclose(
        model.stride, source.stride.float(), rtol=0.01
    ):
        ours, theirs = model.stride.tolist(), source.stride.tolist()
        raise InputError(f"the levels of {file} have the strides {ours}, but its head decodes with {theirs}")
    return model


def _warn_of_other_modules(model: DetectionModel, source: DetectionModel, cfg: str, file: str) -> None:
    """Warn of the differences between the network of --cfg, which counts, and that of the checkpoint."""
    modules = differences(model, source)
    if modules:
        LOGGER.warning(
            f"WARNING: --cfg {cfg} is another network than {file}, and it counts: "
            f"{modules[0].words('in --cfg', 'in the checkpoint')}"
            f"{f' ({len(modules)} differences in all)' if len(modules) > 1 else ''}; "
            "leave --cfg out to train the network of the checkpoint"
        )


def _takes_new_anchors(
    options: TrainOptions, hyp: dict[str, Any], model: DetectionModel, source: DetectionModel
) -> bool:
    """Tell whether the anchors are those of the configuration, instead of those of the weights.

    As in v6.2 they are, given --cfg or anchors among the hyperparameters. Runs that continue with a trained head keep
    the anchors that its outputs refer to.
    """
    if options.resume:
        return False
    kept = options.keeps_anchors and _same_outputs(model, source)
    return bool(hyp.get("anchors") or (options.cfg and not kept))


def _same_outputs(model: DetectionModel, source: DetectionModel) -> bool:
    """Tell whether the two heads have as many levels, anchors and classes."""
    ours, theirs = model.model[-1], source.model[-1]
    return all(getattr(ours, name) == getattr(theirs, name) for name in ("nl", "na", "nc"))


def has_head_of(model: DetectionModel, source: DetectionModel) -> bool:
    """Tell whether the head of ``model`` has the outputs and the anchors of that of ``source``."""
    if not _same_outputs(model, source):
        return False
    head: Any = model.model[-1]
    trained: Any = source.model[-1]
    return torch.equal(head.anchors.cpu().float(), trained.anchors.cpu().float())


def freeze_layers(model: torch.nn.Module, layers: list[int]) -> None:
    """Stop the gradients of the first n layers ([n]) or of exactly the layers listed."""
    numbers = range(layers[0]) if len(layers) == 1 else layers
    prefixes = tuple(f"model.{number}." for number in numbers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not name.startswith(prefixes)
        if not parameter.requires_grad:
            LOGGER.info(f"freezing {name}")
