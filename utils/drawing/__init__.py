"""Drawing: boxes on images, charts, and drawing in the background."""
