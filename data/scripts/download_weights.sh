#!/bin/sh
# YOLOv5's command for the released weights: all ten detection models, into the working folder.
exec "${PYTHON:-python3}" "$(dirname "$0")/download_weights.py" "$@"
