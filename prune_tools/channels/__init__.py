"""Channels that belong together, found by tracing the network."""

SCOPES = ("seed", "all")  # of a pruning: see ChannelGroup.exclusion
