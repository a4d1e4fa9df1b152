"""Validation: the loop, its scores and its files."""
