"""The network that a training run starts from, with the weights that it inherits."""

from __future__ import annotations

from typing import Any

import torch

from models.yolo import DetectionModel
from utils.checkpoint import copy_matching
from utils.checks import check_file
from utils.config import TrainOptions
from utils.errors import InputError
from utils.files import read_yaml_mapping
from utils.log import LOGGER


def build_model(
    options: TrainOptions, hyp: dict[str, Any], class_count: int, checkpoint: dict[str, Any] | None
) -> DetectionModel:
    """The network to train: from --cfg or the checkpoint's own configuration, with the weights that fit.

    Raises:
        InputError: neither --weights nor --cfg; or a pruned checkpoint whose widths --cfg contradicts.
    """
    cfg = check_file(options.cfg) if options.cfg and not options.resume else None
    if checkpoint is None:
        if not cfg:
            raise InputError(
                "nothing to train: give --weights CHECKPOINT.pt, or --cfg MODEL.yaml to start from scratch"
            )
        return DetectionModel(cfg, ch=3, nc=class_count, anchors=hyp.get("anchors"))

    source = checkpoint["model"].float()
    pruned = source.yaml.get("channels")
    if cfg and pruned and read_yaml_mapping(cfg).get("channels") != pruned:
        raise InputError(f"{options.weights} is a pruned model whose widths {cfg} does not have: leave out --cfg")
    channels_in = source.yaml.get("ch", 3)
    model = DetectionModel(cfg or source.yaml, ch=channels_in, nc=class_count, anchors=hyp.get("anchors"))
    new_anchors = _takes_new_anchors(options, hyp, model, source)
    state = source.state_dict()
    copied, total = copy_matching(state, model, exclude=["anchor"] if new_anchors else [])
    LOGGER.info(f"Transferred {copied}/{total} items from {options.weights}")
    if copied == 0:
        raise InputError(
            f"no weight of {options.weights} fits {cfg}: choose the configuration that it was trained with"
        )
    return model


def _takes_new_anchors(
    options: TrainOptions, hyp: dict[str, Any], model: DetectionModel, source: DetectionModel
) -> bool:
    """Whether the anchors are those of the configuration; if not, they come with the weights.

    As in v6.2 they are with --cfg or anchors among the hyperparameters. Runs that go on with a trained head keep the
    anchors that its outputs mean.
    """
    if options.resume:
        return False
    kept = options.keeps_anchors and _same_outputs(model, source)
    return bool(hyp.get("anchors") or (options.cfg and not kept))


def _same_outputs(model: DetectionModel, source: DetectionModel) -> bool:
    """Whether the two heads have as many levels, anchors and classes."""
    ours, theirs = model.model[-1], source.model[-1]
    return all(getattr(ours, name) == getattr(theirs, name) for name in ("nl", "na", "nc"))


def has_head_of(model: DetectionModel, source: DetectionModel) -> bool:
    """Whether the head of ``model`` has as many outputs as that of ``source`` and means the same anchors by them."""
    if not _same_outputs(model, source):
        return False
    head: Any = model.model[-1]
    trained: Any = source.model[-1]
    return torch.equal(head.anchors.cpu().float(), trained.anchors.cpu().float())


def freeze_layers(model: torch.nn.Module, layers: list[int]) -> None:
    """Stop the gradients of the first n layers ([n]) or of exactly the layers listed."""
    chosen = range(layers[0]) if len(layers) == 1 else layers
    prefixes = tuple(f"model.{number}." for number in chosen)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not name.startswith(prefixes)
        if not parameter.requires_grad:
            LOGGER.info(f"freezing {name}")
