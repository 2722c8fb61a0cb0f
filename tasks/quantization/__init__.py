"""Quantization: dynamic and static int8, and weight-only int8 and int4."""
