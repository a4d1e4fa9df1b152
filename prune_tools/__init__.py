"""Sparse training, structured pruning and fine-tuning; the core of the project does not know this package."""
