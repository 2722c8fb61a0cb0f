"""Fewer bits: torch's dynamic int8 as published, and int8 of every projection of an ONNX graph."""
