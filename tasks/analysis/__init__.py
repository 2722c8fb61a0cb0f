"""Statistics and decisions on what was measured. Pure functions."""
