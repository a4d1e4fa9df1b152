"""Detection: sources of images, and the results that are drawn and written."""
