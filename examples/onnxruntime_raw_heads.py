#!/usr/bin/env python3
"""Detection from the raw maps of a head, without this repository: pip install onnxruntime opencv-python numpy

python export.py --weights pruned_model.pt --imgsz 320 --include onnx --raw-heads     # there
python onnxruntime_raw_heads.py pruned_model_raw.onnx street.jpg                      # here: prints boxes

``decode`` is what a program on a chip needs: it takes the maps that the chip computes, as float numbers.
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def decode(maps, anchors, strides, confidence=0.25):
    """Maps (1, anchors * (5 + classes), rows, columns) before the sigmoid -> boxes, scores, classes above confidence.

    Boxes are (n, 4): left, top, width, height in pixels of the network's input.
    """
    found = []
    for values, sizes, stride in zip(maps, anchors, strides, strict=True):
        rows, columns = values.shape[2:]
        # A value per anchor, row and column in each of 5 + classes channels; chips that apply the sigmoid: leave it out
        values = 1 / (1 + np.exp(-values.reshape(len(sizes), -1, rows, columns)))
        anchor, y, x = np.nonzero(values[:, 4] > confidence)  # few are left of thousands
        picked = values[anchor, :, y, x]  # (n, 5 + classes)
        centre = (picked[:, :2] * 2 - 0.5 + np.stack((x, y), 1)) * stride
        size = (picked[:, 2:4] * 2) ** 2 * np.array(sizes)[anchor]
        found.append(np.hstack((centre - size / 2, size, picked[:, 4:5] * picked[:, 5:])))
    boxes, scores = np.split(np.concatenate(found), [4], axis=1)
    return boxes, scores.max(1, initial=0), scores.argmax(1)


def detect(session, image, confidence=0.25, overlap=0.45):
    """BGR image (H, W, 3) -> (n, 6): x1, y1, x2, y2 in its pixels, score, class, by falling score."""
    texts = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    height, width = texts["imgsz"]
    scale = min(height / image.shape[0], width / image.shape[1])  # letterbox: keep the aspect, pad evenly in grey
    inner_w, inner_h = round(image.shape[1] * scale), round(image.shape[0] * scale)
    left, top = (width - inner_w) // 2, (height - inner_h) // 2
    canvas = np.full((height, width, 3), 114, np.uint8)
    canvas[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h))
    pixels = canvas[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255  # RGB, channels first, 0..1
    maps = session.run(None, {session.get_inputs()[0].name: pixels})

    boxes, scores, classes = decode(maps, texts["anchors"], texts["strides"], confidence)
    kept = np.asarray(cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), classes.tolist(), confidence, overlap))
    kept = kept.astype(int).ravel()
    boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
    corners = np.hstack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]))
    padding = (np.array([width, height]) - np.array(image.shape[1::-1]) * scale) / 2
    corners = np.clip((corners - np.tile(padding, 2)) / scale, 0, np.tile(image.shape[1::-1], 2))
    detections = np.column_stack((corners, scores, classes))
    return detections[np.argsort(-detections[:, 4])]


def load(path):
    """The session of an ONNX file. Ends the program with one line if ``detect`` cannot run it."""
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SystemExit(f"cannot load {path}: {error}") from error
    texts = session.get_modelmeta().custom_metadata_map
    if json.loads(texts.get("anchors", "null")) is None:
        sys.exit(f"{path} was not written by export.py --raw-heads: use onnxruntime_detect.py for other ONNX files")
    if json.loads(texts["half"]) or json.loads(texts["batch"]) > 1:
        sys.exit(f"{path} was exported with --half or --batch-size: this example needs an export without")
    return session


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    session, image = load(sys.argv[1]), cv2.imread(sys.argv[2])
    if image is None:
        sys.exit(f"cannot read the image {sys.argv[2]}")
    names = json.loads(session.get_modelmeta().custom_metadata_map["names"])
    detections = detect(session, image)
    for x1, y1, x2, y2, score, index in detections:
        print(f"{names[int(index)]} {score:.2f} at {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}")
    print(f"{len(detections)} boxes", file=sys.stderr)
