"""YOLOv5 networks: building blocks, the config parser, the detection model and its loaders."""
