"""Validation: options, inputs, the loop over a split, its scores and files."""
