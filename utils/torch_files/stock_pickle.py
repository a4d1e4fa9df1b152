"""The pickle module that ``torch.save`` gets: classes of the installed package go by the paths they have in YOLOv5.

So the installed package writes the files that a checkout writes, and YOLOv5 reads them. The compiled pickler of the
standard library takes the name of a class from the class alone; the one written in Python lets a subclass choose it.
"""

from __future__ import annotations

import pickle
from typing import Any

from utils.installation import PREFIX

__all__ = ["Pickler"]


class _StockPickler(pickle._Pickler):
    """Writes ``models.common.Conv`` where the class is ``yolov5_prune.models.common.Conv``."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Write the path of a class or function. Overrides pickle's method, which is called for each."""
        module = getattr(obj, "__module__", None) or ""
        if not module.startswith(PREFIX):
            super().save_global(obj, name)  # type: ignore[misc]
            return
        path = f"{module.removeprefix(PREFIX)}\n{name or obj.__qualname__}\n"
        self.write(pickle.GLOBAL + path.encode("ascii"))  # type: ignore[attr-defined]
        self.memoize(obj)  # type: ignore[attr-defined]


Pickler = _StockPickler if PREFIX else pickle.Pickler
