"""Accuracy without training: constants folded, readers re-fitted, batch norms re-estimated."""
