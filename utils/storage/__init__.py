"""Files: atomic writing, locks, YAML, lists, archives."""
