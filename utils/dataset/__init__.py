"""From a data set on disk to the images and labels of a batch."""

SPLITS = ("train", "val", "test")
