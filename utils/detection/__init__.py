"""Detection: options, sources of images, the detector, and the files that it writes."""
