"""Accuracy against cost: this project's pruning beside other ways to a smaller network; see docs/FRONTIER.md."""
