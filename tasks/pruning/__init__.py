"""Pruning: group lasso as published, removal of structures and vocabulary, and latency tables."""
