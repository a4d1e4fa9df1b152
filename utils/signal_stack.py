"""The alternate stack on which a thread handles signals."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """stack_t of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> SignalStack | None:
    """That of this thread, None where there is no such thing to ask for."""
    if not sys.platform.startswith("linux"):
        return None
    stack = SignalStack()
    return stack if ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0 else None


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give this thread its alternate signal stack back afterwards.

    OpenVINO sets one of its own for each compiled model and puts back the one that it found when the model goes. Where
    models go in another order than they came, that is one whose memory has gone, and the next signal (of a child that
    ends, say) ends the process with a segmentation fault. Models that all find the same one can go in any order.
    """
    before = signal_stack()
    try:
        yield
    finally:
        if before is not None:
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
