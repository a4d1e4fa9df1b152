"""Export of detectors to other formats: one module for each, with a function ``export(job)``."""
