"""What is published in words of the systems that the study compares itself with, where no table of figures is."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_CSV = Path(__file__).parents[1] / "metrics" / "claims.csv"


class Claim(NamedTuple):
    """A system, by whom, what is said of it, and the name of the variant that reproduces it."""

    variant: str
    system: str
    author: str
    claim: str


@lru_cache(maxsize=1)
def _claims() -> tuple[Claim, ...]:
    with _CSV.open(encoding="utf-8", newline="") as file:
        return tuple(Claim(**row) for row in csv.DictReader(file))


def claims_of(variant: str) -> list[Claim]:
    """What is published of the system that a variant reproduces, by its name."""
    return [each for each in _claims() if each.variant == variant]
