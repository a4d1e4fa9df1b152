"""The report of a pruning: table, pictures, page."""
