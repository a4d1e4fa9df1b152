"""Random inputs with a structure: see ``python -m tests.fuzz --help``."""
