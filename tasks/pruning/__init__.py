"""Pruning: whole blocks of weights to zero."""
