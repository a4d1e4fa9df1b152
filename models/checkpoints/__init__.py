"""Turn the records of a file into a network: all are checked first, then built."""
