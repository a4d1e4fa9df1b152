"""Run detectors of any format: ``DetectMultiBackend`` chooses the runtime by the file's name."""

from models.backends.multi import DetectMultiBackend

__all__ = ["DetectMultiBackend"]
