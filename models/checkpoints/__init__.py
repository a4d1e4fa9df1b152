"""From the records of a file to a network: judged whole, then built."""
