"""The nightly judgement: what has changed, and since when."""
