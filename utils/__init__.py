"""Training, data and inference helpers; this package imports no other folder of the project."""
