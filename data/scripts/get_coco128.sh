#!/bin/sh
# YOLOv5's command for COCO128: fetch what data/coco128.yaml names, unless it is there.
cd "$(dirname "$0")/../.." || exit 1
exec "${PYTHON:-python3}" -c "from utils.checks import check_dataset; check_dataset('coco128.yaml')"
