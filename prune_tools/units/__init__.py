"""Units above channels: head levels with all that only they read, and residual blocks."""
