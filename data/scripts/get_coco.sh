#!/bin/sh
# YOLOv5's command for COCO: get_coco.sh [--train] [--val] [--test] [--segments], train and val unless told otherwise.
splits="" more=""
for flag in "$@"; do
    case $flag in
        --train | --val | --test) splits="$splits ${flag#--}" ;;
        --segments) more=--segments ;;
        *) echo "error: unknown option $flag: expected --train, --val, --test or --segments" >&2; exit 2 ;;
    esac
done
# shellcheck disable=SC2086  # words of their own
exec "${PYTHON:-python3}" "$(dirname "$0")/get_dataset.py" coco --splits ${splits:-train val} $more
