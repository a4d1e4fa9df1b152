"""The process that draws for ``BackgroundDrawing``. It loads no torch."""

from __future__ import annotations

import os
import pickle
import signal
import sys

from utils.drawing.background import READY, attempt
from utils.drawing.charts import new_figure


def serve() -> None:
    """What the other process does: draw what comes in, answer with what went wrong, until the input ends."""
    for name in ("SIGINT", "SIGHUP"):  # which a terminal sends to all: the caller ends it
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    new_figure(1, 1)  # loads matplotlib while there is nothing to draw yet
    try:
        answers.write(READY)
        answers.flush()
        while True:
            picture = pickle.load(sys.stdin.buffer)
            answers.write(pickle.dumps(attempt(picture)))
            answers.flush()
    except (EOFError, BrokenPipeError):  # the caller needs no more, or has been killed
        os._exit(0)  # without a word about answers that nobody reads
