"""The process that draws for ``utils.drawing.background``. It loads no torch."""

from __future__ import annotations

import os
import pickle
import signal
import sys

from utils.drawing.background import READY, attempt
from utils.drawing.charts import new_figure


def serve(preload: str = "") -> None:
    """Draw the pictures that come in and answer with what went wrong, until the input ends.

    With ``preload`` matplotlib is loaded before the first picture comes.
    """
    for name in ("SIGINT", "SIGHUP"):  # which a terminal sends to all processes: the caller ends this one
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing printed by a library gets among the answers
    if preload:
        new_figure(1, 1)
    try:
        answers.write(READY)
        answers.flush()
        while True:
            picture = pickle.load(sys.stdin.buffer)
            answers.write(pickle.dumps(attempt(picture)))
            answers.flush()
    except (EOFError, BrokenPipeError):  # the caller needs no more, or has been killed
        os._exit(0)  # not sys.exit: it would complain about answers that nobody reads
