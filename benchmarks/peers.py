#!/usr/bin/env python3
"""Images per second of training beside detectors of the same size in the ultralytics package.

    python benchmarks/peers.py --data data/mask.yaml --cfg models/yolov5n.yaml --peers yolov8n.yaml yolov5n.yaml

All train from scratch as by default, without validation, in processes of their own with one thread and no loader
processes; the first epoch warms up. Rounds take turns. ``pip install ultralytics`` first, here or into the environment
whose interpreter is given by --python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, as_table, compare_seconds
from benchmarks.material import demo_data
from utils.commands.cli import run_command
from utils.commands.options import option, parse
from utils.errors import InputError
from utils.log import LOGGER
from utils.storage.files import ROOT

# Both print the seconds of the epochs after the first; given: YAML of network and data, image and batch size, folder
PEER = """
import json, sys, time
import torch
from ultralytics import YOLO

torch.set_num_threads(1)
network, data, side, batch, folder = sys.argv[1:]
seconds = []
peer = YOLO(network)
peer.add_callback("on_train_epoch_start", lambda trainer: seconds.append(-time.perf_counter()))
def end(trainer):
    seconds[-1] += time.perf_counter()
peer.add_callback("on_train_epoch_end", end)
peer.train(data=data, imgsz=int(side), batch=int(batch), epochs=3, workers=0, device="cpu", val=False, plots=False,
           save=False, pretrained=False, project=folder)
print(json.dumps(seconds[1:]))
"""
OURS = """
import json, sys, time
import train
from utils.callbacks import Callbacks

network, data, side, batch, folder = sys.argv[1:]
seconds, callbacks = [], Callbacks()
callbacks.register_action("on_train_epoch_start", callback=lambda: seconds.append(-time.perf_counter()))
def end(epoch):
    seconds[-1] += time.perf_counter()
callbacks.register_action("on_train_epoch_end", callback=end)
train.run(callbacks, weights="", cfg=network, data=data, imgsz=int(side), batch_size=int(batch), epochs=3, workers=0,
          device="cpu", noval=True, noplots=True, nosave=True, project=folder)
print(json.dumps(seconds[1:]))
"""


@dataclass
class PeerOptions:
    """Options of the comparison."""

    data: str = option("", "data set YAML; default: demo pictures, drawn for this")
    cfg: str = option(str(ROOT / "models/yolov5n.yaml"), "model YAML of this project")
    peers: list[str] = option(["yolov8n.yaml", "yolov5n.yaml"], "model YAMLs of ultralytics", nargs="+")
    imgsz: int = option(320, "image size in pixels")
    batch_size: int = option(16, "images per batch")
    rounds: int = option(2, "rounds of two epochs")
    python: str = option(sys.executable, "interpreter that has ultralytics")


def epoch_seconds(interpreter: str, script: str, network: str, options: PeerOptions) -> list[float]:
    """Seconds of the epochs after the first, of ``script`` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [network, options.data, str(options.imgsz), str(options.batch_size), folder]
        done = subprocess.run(
            [interpreter, "-c", script, *arguments], cwd=ROOT if script == OURS else folder, capture_output=True,
            text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "true"},
        )  # fmt: skip
    if done.returncode:
        raise InputError(f"{network} does not train with {interpreter}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(options: PeerOptions) -> list[Figure]:
    """The figures, one for each peer."""
    from utils.checks import check_dataset
    from utils.dataset.labels import find_images

    images = len(find_images(check_dataset(options.data)["train"]))
    runs = {"": (sys.executable, OURS, options.cfg), **{peer: (options.python, PEER, peer) for peer in options.peers}}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            seconds[name] += epoch_seconds(*run, options)
    subject = (
        f"training, {Path(options.cfg).stem}, {options.imgsz} px, batch {options.batch_size}, one thread, wall time"
    )
    return [
        compare_seconds(subject, seconds[""], seconds[peer], 1.8, f"ultralytics, {peer}", images, "images/s")
        for peer in options.peers
    ]


def main(options: PeerOptions) -> list[Figure]:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        options.data = options.data or demo_data(Path(folder))
        figures = measure(options)
    LOGGER.info("\n" + as_table(figures))
    return figures


if __name__ == "__main__":
    run_command(lambda: main(parse(PeerOptions, "Images per second of training beside detectors of ultralytics.")))
