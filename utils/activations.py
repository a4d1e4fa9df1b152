"""v6.2's path of activations that torch has by now."""

from torch.nn import Hardswish, Mish, SiLU

__all__ = ["Hardswish", "Mish", "SiLU"]
