"""Measurements of a variant: quality, speed, memory, energy and size, with their uncertainty."""
