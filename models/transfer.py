"""The network that a training run starts from, with the weights that it inherits."""

from __future__ import annotations

from typing import Any

import torch

from models.yolo import DetectionModel
from utils.checkpoint import copy_matching
from utils.checks import check_file
from utils.config import TrainOptions
from utils.errors import InputError
from utils.files import read_yaml
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
    if cfg and pruned and read_yaml(cfg).get("channels") != pruned:
        raise InputError(f"{options.weights} is a pruned model whose widths {cfg} does not have: leave out --cfg")
    channels_in = source.yaml.get("ch", 3)
    model = DetectionModel(cfg or source.yaml, ch=channels_in, nc=class_count, anchors=hyp.get("anchors"))
    new_anchors = (options.cfg or hyp.get("anchors")) and not options.resume
    state = source.state_dict()
    copied, total = copy_matching(state, model, exclude=["anchor"] if new_anchors else [])
    LOGGER.info(f"Transferred {copied}/{total} items from {options.weights}")
    if copied == 0:
        raise InputError(
            f"no weight of {options.weights} fits {cfg}: choose the configuration that it was trained with"
        )
    return model


def freeze_layers(model: torch.nn.Module, layers: list[int]) -> None:
    """Stop the gradients of the first n layers ([n]) or of exactly the layers listed."""
    chosen = range(layers[0]) if len(layers) == 1 else layers
    prefixes = tuple(f"model.{number}." for number in chosen)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not name.startswith(prefixes)
        if not parameter.requires_grad:
            LOGGER.info(f"freezing {name}")
