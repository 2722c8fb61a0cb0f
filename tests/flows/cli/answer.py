"""What a command did."""

from collections.abc import Callable
from typing import NamedTuple

HEAVY = {"torch", "transformers", "prefect", "datasets", "onnxruntime"}
"""Packages that no quick command may import."""


class Answer(NamedTuple):
    """What a command did: exit status, what it printed, and the packages it imported."""

    status: int
    out: str
    err: str
    imported: set[str]


Slimline = Callable[..., Answer]
