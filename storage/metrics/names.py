"""Names of runs, studies and hosts: they become names of files, so they are checked when written and when read."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

NAME_COLUMNS = ("run", "study", "host", "node")
_NAME = re.compile(r"[^\W_][\w.@+: -]*")
_MOST_CHARACTERS = 128


def name_problem(field: str, name: str) -> str | None:
    """What is wrong with a name; None if nothing is."""
    if len(name) <= _MOST_CHARACTERS and _NAME.fullmatch(name) and not name.endswith((" ", ".")):
        return None
    allowed = f"up to {_MOST_CHARACTERS} letters, digits and _ . @ + : -, the first a letter or digit"
    return f"{field}: {name[:_MOST_CHARACTERS]!r} is not a name; allowed: {allowed}"


def _check(name: str) -> str:
    if problem := name_problem("name", name):
        raise ValueError(problem)
    return name


Name = Annotated[str, AfterValidator(_check)]
"""A name of a run, a study or a host."""
