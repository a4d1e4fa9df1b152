"""Every figure that the README claims, with the command that measures it."""
