"""Training on a GPU: skipped steps, whole runs, one process in a group."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

import train
from models.loading import load_checkpoint
from tests.test_skipped_steps import batch, run_state
from utils.storage.files import ROOT
from utils.training.engine import optimizer_step, warm_up

if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

DEVICE = torch.device("cuda", 0)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "RMSProp"])
@pytest.mark.parametrize("overflow_at", [(0,), (0, 1), (2,)], ids=str)
def test_a_skipped_step_leaves_no_trace(tiny_cfg, optimizer, overflow_at):
    """Gradients of a loss that is scaled to infinity: weights and average wait, and nothing undefined enters them."""
    state, _ = run_state(tiny_cfg, optimizer, "", DEVICE)
    state.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**16)
    state.model.train()
    for number in range(4):
        warm_up(state, number)
        images, targets = (part.to(DEVICE) for part in batch(number))
        loss, _ = state.compute_loss(state.model(images), targets)
        factor = torch.inf if number in overflow_at else 1.0
        before = [copy.deepcopy(list(model.parameters())) for model in (state.model, state.ema.ema)]
        updates = state.ema.updates
        (state.scaler.scale(loss) * factor).backward()
        optimizer_step(state, number)
        for model, parameters in zip((state.model, state.ema.ema), before, strict=True):
            same = [torch.equal(*pair) for pair in zip(model.parameters(), parameters, strict=True)]
            assert all(same) == (number in overflow_at)
            assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert state.ema.updates == updates + (number not in overflow_at)
    assert state.skips_step() == (3 in overflow_at)


def test_the_host_does_not_wait_for_the_device_in_a_step(tiny_cfg):
    state, _ = run_state(tiny_cfg, "SGD", "", DEVICE)
    state.scaler = torch.amp.GradScaler("cuda")
    state.model.train()
    images, targets = (part.to(DEVICE) for part in batch(0))
    for number in range(3):
        loss, _ = state.compute_loss(state.model(images), targets)
        state.scaler.scale(loss).backward()
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            optimizer_step(state, number)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("amp", ["on", "bfloat16", "off"])
def test_a_run(tiny_dataset, tiny_cfg, tmp_path, amp):
    options = {
        "data": str(tiny_dataset),
        "cfg": str(tiny_cfg),
        "weights": "",
        "imgsz": 64,
        "batch_size": 4,
        "epochs": 2,
    }
    train.run(**options, amp=amp, project=str(tmp_path), name="run", device="0", workers=0)
    model = load_checkpoint(tmp_path / "run/weights/best.pt")["model"]
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert (tmp_path / "run/results.csv").read_text().count("\n") == 3


def test_one_process_in_a_group_with_sync_bn(tiny_dataset, tiny_cfg, tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", "train.py", "--data",
        str(tiny_dataset), "--cfg", str(tiny_cfg), "--weights", "", "--imgsz", "64", "--batch-size", "4", "--epochs",
        "1", "--sync-bn", "--project", str(tmp_path), "--workers", "0",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
