"""The path under which checkpoints and other programs know some rarer blocks, ensembles and ``attempt_load``."""

from models.ensemble import Ensemble
from models.loading import attempt_load
from models.rare_blocks import MixConv2d, Sum
from utils.downloads import attempt_download

__all__ = ["Ensemble", "MixConv2d", "Sum", "attempt_download", "attempt_load"]
