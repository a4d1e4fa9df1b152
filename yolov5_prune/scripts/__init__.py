"""The files beside train.py: ``from yolov5_prune.scripts import train`` is ``import train`` in a checkout."""
