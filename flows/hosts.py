"""What a host is: where variants are measured, described by a file of flows/hosts/."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from flows.study import StudyError, problems_of, unknown
from tasks.specs import Spec

HOSTS = Path(__file__).parent / "hosts"


class Host(Spec):
    """How to reach a host."""

    name: str
    description: str = ""
    kind: Literal["local"] = "local"


def host_names() -> list[str]:
    """The hosts that are described."""
    return sorted(path.stem for path in HOSTS.glob("*.yaml"))


def load_host(name: str) -> Host:
    """A host by name.

    Raises:
        StudyError: there is no such host, or its file is invalid.
    """
    path = HOSTS / f"{name}.yaml"
    if name not in host_names():
        raise StudyError(f"host: {unknown(name, host_names())}")
    try:
        return Host.model_validate({"name": name, **yaml.safe_load(path.read_text("utf8"))})
    except ValidationError as error:
        raise StudyError("\n".join(problems_of(error))) from error
