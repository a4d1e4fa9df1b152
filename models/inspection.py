"""The command ``python models/yolo.py``: build a configuration, log its size, and time it on request."""

from __future__ import annotations

import argparse
import time

import torch

from models.yolo import PROFILE_RUNS, DetectionModel
from utils.commands.options import argument_parser
from utils.device import device_line, select_device
from utils.errors import InputError, short_repr
from utils.log import LOGGER
from utils.storage.files import ROOT

MOST_IMAGES = 1024  # of a profiled batch


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line of models/yolo.py."""
    parser = argument_parser("Build a model configuration and show its layers and size.")
    parser.add_argument("--cfg", default="yolov5s.yaml", help="model YAML: a path, or a name in models/ or models/hub/")
    parser.add_argument("--batch-size", type=int, default=1, help="images of a profiled batch")
    parser.add_argument("--device", default="", help="cuda device, such as 0, or cpu")
    parser.add_argument("--profile", action="store_true", help="time forward and backward passes at 640 pixels")
    parser.add_argument("--line-profile", action="store_true", help="time every layer at 640 pixels")
    parser.add_argument("--test", action="store_true", help="build every models/**/yolo*.yaml and report what fails")
    return parser.parse_args(arguments)


def profile(model: DetectionModel, image: torch.Tensor) -> tuple[float, float]:
    """Milliseconds of a forward and a backward pass in training mode, mean of PROFILE_RUNS after a first one."""

    def now() -> float:
        if image.device.type == "cuda":
            torch.cuda.synchronize(image.device)
        return time.perf_counter()

    model.train()
    forward = 0.0
    backward = 0.0
    for repeat in range(PROFILE_RUNS + 1):
        started = now()
        total = sum(map_.sum() for map_ in model(image))
        between = now()
        total.backward()
        if repeat:
            forward += between - started
            backward += now() - between
        model.zero_grad(set_to_none=True)
    return forward * 1000 / PROFILE_RUNS, backward * 1000 / PROFILE_RUNS


def build_all() -> list[str]:
    """Build every configuration in models/; return ``name: error`` for those that fail."""
    failures = []
    for path in sorted((ROOT / "models").rglob("yolo*.yaml")):
        try:
            DetectionModel(path)
        except InputError as error:
            failures.append(f"{path.relative_to(ROOT)}: {error}")
    return failures


def main(arguments: list[str] | None = None) -> None:
    """Build ``--cfg`` and profile it; without flags, fuse it.

    Raises:
        InputError: the configuration, or with --test any shipped one, cannot be built.
    """
    options = parse_options(arguments)
    if not 1 <= options.batch_size <= MOST_IMAGES:
        raise InputError(f"--batch-size must be 1 or more, at most {MOST_IMAGES}, got {short_repr(options.batch_size)}")
    device = select_device(options.device)
    LOGGER.info(device_line(device))
    if options.test:
        failures = build_all()
        if failures:
            raise InputError("; ".join(failures))
        LOGGER.info("every configuration builds")
        return
    model = DetectionModel(options.cfg).to(device)
    image = torch.rand(options.batch_size, model.yaml["ch"], 640, 640, device=device)
    if options.profile:
        forward, backward = profile(model, image)
        batch = f"{options.batch_size} image(s) at 640 pixels"
        LOGGER.info(f"forward {forward:.1f} ms, backward {backward:.1f} ms for {batch}")
    if options.line_profile:
        with torch.no_grad():
            model.eval()(image, profile=True)
    if not options.profile and not options.line_profile:
        model.fuse()
