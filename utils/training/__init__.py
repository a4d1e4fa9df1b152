"""Training: the epoch, the state of a run, its folder, and resuming it."""
