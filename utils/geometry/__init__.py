"""Boxes and polygons: conversions, overlap, suppression."""
