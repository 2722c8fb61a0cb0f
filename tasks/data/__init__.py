"""PY150: lexing of Python source, sources of code, splits, and the lines to complete."""
