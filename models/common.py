"""The path under which checkpoints and other programs know the building blocks of the networks.

The blocks are defined in ``models.blocks`` and ``models.rare_blocks``; their ``__module__`` is set to this path, under
which files pickle them.
"""

from __future__ import annotations

from typing import Any

from models.blocks import C3, SPP, SPPF, Bottleneck, Concat, Conv, DWConv, autopad
from models.rare_blocks import (
    C3SPP,
    C3TR,
    BottleneckCSP,
    C3Ghost,
    C3x,
    Contract,
    CrossConv,
    DWConvTranspose2d,
    Expand,
    Focus,
    GhostBottleneck,
    GhostConv,
    TransformerBlock,
    TransformerLayer,
)
from utils.installation import import_own

__all__ = [
    "C3",
    "C3SPP",
    "C3TR",
    "SPP",
    "SPPF",
    "Bottleneck",
    "BottleneckCSP",
    "C3Ghost",
    "C3x",
    "Concat",
    "Contract",
    "Conv",
    "CrossConv",
    "DWConv",
    "DWConvTranspose2d",
    "Expand",
    "Focus",
    "GhostBottleneck",
    "GhostConv",
    "TransformerBlock",
    "TransformerLayer",
    "autopad",
]

for _name in __all__:
    globals()[_name].__module__ = __name__

# Names that other programs import from here; their modules import this one
_ELSEWHERE = {
    "DetectMultiBackend": "models.backends",
    "AutoShape": "models.autoshape",
    "Detections": "models.detections",
}


def __getattr__(name: str) -> Any:
    """Return a name of ``_ELSEWHERE``, imported on first use."""
    if name in _ELSEWHERE:
        return getattr(import_own(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
