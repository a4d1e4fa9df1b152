"""Data set descriptions, hyperparameter files, and scripts that make data sets."""
