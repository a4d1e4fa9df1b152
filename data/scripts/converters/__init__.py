"""One module for each public data set: ``fetch(folder, splits, ...)`` gets it and writes labels in YOLO format."""
