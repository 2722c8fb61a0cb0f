"""Conversion of a checkpoint into the formats of other engines."""
