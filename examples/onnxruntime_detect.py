#!/usr/bin/env python3
"""Detection with an exported ONNX file and without this repository: pip install onnxruntime opencv-python numpy

python export.py --weights pruned_model.pt --imgsz 320 --include onnx     # there: FP32, or with --int8
python onnxruntime_detect.py pruned_model.onnx street.jpg                 # here: prints boxes, writes detected.jpg
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def load(path):
    """The session of an ONNX file. Ends the program with one line if ``detect`` cannot run it."""
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise SystemExit(f"cannot load {path}: {error}") from error
    texts = session.get_modelmeta().custom_metadata_map
    if "names" not in texts or "imgsz" not in texts:
        sys.exit(f"{path} has no class names and image size: it was not written by export.py")
    if json.loads(texts.get("anchors", "null")):
        sys.exit(f"{path} was exported with --raw-heads: run it with onnxruntime_raw_heads.py, or export it without")
    if any(json.loads(texts.get(flag, "null")) for flag in ("nms", "half")) or json.loads(texts["batch"]) > 1:
        sys.exit(f"{path} was exported with --nms, --half or --batch-size: this example needs an export without")
    return session


def detect(session, image, confidence=0.25, overlap=0.45):
    """BGR image (H, W, 3) -> (n, 6): x1, y1, x2, y2 in its pixels, score, class, by falling score."""
    texts = session.get_modelmeta().custom_metadata_map
    height, width = json.loads(texts["imgsz"])
    scale = min(height / image.shape[0], width / image.shape[1])  # letterbox: keep the aspect, pad evenly in grey
    inner_w, inner_h = round(image.shape[1] * scale), round(image.shape[0] * scale)
    left, top = (width - inner_w) // 2, (height - inner_h) // 2
    canvas = np.full((height, width, 3), 114, np.uint8)
    canvas[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h))
    pixels = canvas[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255  # RGB, channels first, 0..1
    rows = session.run(None, {session.get_inputs()[0].name: pixels})[0][0]  # centre, size, objectness, class scores

    rows = rows[rows[:, 4] > confidence]
    scores = rows[:, 4:5] * rows[:, 5:]
    classes, scores = scores.argmax(1), scores.max(1, initial=0)
    boxes = np.hstack((rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]))  # left, top, width, height
    kept = np.asarray(cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), classes.tolist(), confidence, overlap))
    kept = kept.astype(int).ravel()
    boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
    corners = np.hstack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]))
    padding = (np.array([width, height]) - np.array(image.shape[1::-1]) * scale) / 2
    corners = np.clip((corners - np.tile(padding, 2)) / scale, 0, np.tile(image.shape[1::-1], 2))
    detections = np.column_stack((corners, scores, classes))
    return detections[np.argsort(-detections[:, 4])]


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
        cv2.rectangle(image, (round(x1), round(y1)), (round(x2), round(y2)), (0, 200, 0), 2)
        cv2.putText(image, names[int(index)], (round(x1), round(y1) - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 200, 0))
    cv2.imwrite("detected.jpg", image)
    print(f"{len(detections)} boxes, drawn in detected.jpg", file=sys.stderr)
