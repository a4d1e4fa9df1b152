"""The alternate signal stack of this thread is as before when models of OpenVINO have come and gone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from utils.storage.files import ROOT

SCRIPT = """
import faulthandler, signal, subprocess
faulthandler.enable()  # it has a stack of its own
import openvino
from openvino import opset13
from models.backends.openvino import kept_signal_stack, signal_stack

def compiled():
    value = opset13.parameter([1, 4])
    with kept_signal_stack():
        return openvino.compile_model(openvino.Model([opset13.relu(value)], [value]), "CPU").create_infer_request()

before = signal_stack()
models = [compiled(), compiled()]
while models:
    del models[0]  # the first goes first
after = signal_stack()
assert (before.start, before.flags, before.size) == (after.start, after.flags, after.size), (before.start, after.start)
signal.signal(signal.SIGCHLD, lambda *_: None)
subprocess.run(["true"], check=True)
print("alive")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="alternate signal stacks are put back on Linux")
def test_models_of_openvino_may_go_in_any_order():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "alive\n", (done.returncode, done.stderr)
