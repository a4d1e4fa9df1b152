"""Boxes, polygons and canvases: conversions, overlap, suppression, warps."""
