"""The program's name and version, written here alone: pyproject.toml and everything that states them read this file."""

PROGRAM = "yolov5-prune"
__version__ = "0.2.0"
MADE_BY = f"{PROGRAM} {__version__}"
