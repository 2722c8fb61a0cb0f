"""Models that others made: what is in a directory, whether it can be run, and what of it inference needs."""
