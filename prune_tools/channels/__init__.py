"""Channels that belong together, found by tracing the network."""
