"""Sparse training: the penalty on the gammas, its strength, and polarisation to a budget."""
