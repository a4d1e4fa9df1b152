"""Scores, costs and targets: the channels that stay."""
