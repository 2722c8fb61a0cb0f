"""Smaller numbers: dynamic and static int8, weights in int8 or int4, and recovery after it."""
