"""Draws the demo data set: people with and without face masks, in front of all kinds of backgrounds."""
