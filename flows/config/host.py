"""What a host is: where variants are measured, and how to reach it; a file of flows/hosts/, or one's own."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, WithJsonSchema, model_validator

from slimline.flows.config.loader import StudyError, find_file, problem_lines, read_fields, yaml_names
from slimline.tasks.specs import Spec

HOSTS = Path(__file__).parents[1] / "hosts"
Line = Annotated[str, Field(pattern=r"^[^\n\r\x00]*$")]


class HostError(RuntimeError):
    """A host did not measure what it was asked to; the message says why, and what to do about it."""


class _Host(Spec):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""


class Local(_Host):
    """The machine the benchmark runs on; its name in the tables is the machine's own."""

    kind: Literal["local"] = "local"
    limit_minutes: PositiveFloat | None = Field(None, description="Most minutes for all of a run; null: no limit.")


class Pool(_Host):
    """A machine whose worker serves a Prefect work pool of type process; one machine a pool."""

    kind: Literal["pool"]
    pool: str = Field(pattern=r"^[^/%&<>\"\n]+$", description="Name of the work pool.")
    start_within_minutes: PositiveFloat = Field(2, description="Minutes until a worker must be there; a busy one is.")
    limit_minutes: PositiveFloat = Field(720, description="Most minutes for all of a run.")


class Slurm(_Host):
    """A node of a Slurm cluster that is reached by `sbatch` on the machine the benchmark runs on."""

    kind: Literal["slurm"]
    partition: Line | None = Field(None, description="Partition to submit to; null: the cluster's default.")
    account: Line | None = Field(None, description="Account to charge; null: the user's default.")
    cores: PositiveInt = Field(description="CPUs of the job; what is measured uses as many threads.")
    memory: str = Field(
        pattern=r"^[1-9][0-9]*(\.[0-9]+)? ?(MB|GB|MiB|GiB)$", description="Memory of the job, e.g. 4GB."
    )
    walltime: str = Field(pattern=r"^([0-9]+-)?[0-9]{1,2}:[0-5][0-9]:[0-5][0-9]$", description="[days-]hh:mm:ss")
    modules: tuple[Line, ...] = Field((), description="Environment modules to load first.")
    prologue: tuple[Line, ...] = Field((), description="Shell lines to run before, after the modules.")
    directives: tuple[Line, ...] = Field((), description="More options of sbatch, e.g. --exclusive.")
    interface: Line | None = Field(None, description="Network interface between nodes, such as ib0.")
    python: Line | None = Field(None, description="Interpreter on the nodes; null: the one that runs the benchmark.")
    start_within_minutes: PositiveFloat = Field(60, description="Longest wait in the queue, minutes.")
    limit_minutes: PositiveFloat = Field(50, description="Most minutes for all of a run; less than the walltime.")

    @model_validator(mode="after")
    def _ends_before_slurm_ends_it(self) -> Self:
        if self.limit_minutes >= self.walltime_minutes:
            limit, wall = f"{self.limit_minutes:g}", f"{self.walltime_minutes:g}"
            raise ValueError(f"limit_minutes is {limit}; allowed: less than the walltime of {wall} minutes")
        return self

    @property
    def walltime_minutes(self) -> float:
        """The walltime in minutes."""
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        return (int(days or 0) * 24 + hours) * 60 + minutes + seconds / 60


Host = Annotated[Local | Pool | Slurm, Field(discriminator="kind")]
_HOST: TypeAdapter[Local | Pool | Slurm] = TypeAdapter(Host)


def host_names() -> list[str]:
    """The hosts that ship with slimline."""
    return yaml_names(HOSTS)


HostChoice = Annotated[str, WithJsonSchema({"type": "string", "enum": host_names(), "title": "Host"})]


def load_host(name: str) -> Local | Pool | Slurm:
    """A host by name, or from a YAML file.

    Raises:
        StudyError: there is no such host, or its file is invalid; the message names every offending field.
    """
    path = find_file("host", name, HOSTS)
    try:
        return _HOST.validate_python({"name": path.stem, "kind": "local", **read_fields(path, "a host")})
    except ValidationError as error:
        problems = problem_lines(error, "host")
        raise StudyError("\n".join(f"{path}: {problem}" for problem in problems)) from error


def load_hosts(names: Sequence[str]) -> list[Local | Pool | Slurm]:
    """The hosts of a study.

    Raises:
        StudyError: as `load_host`, or two are the same.
    """
    hosts = [load_host(name) for name in names]
    shown = [table_name(host) for host in hosts]
    for name in shown:
        if shown.count(name) > 1:
            raise StudyError(f"hosts: two of {', '.join(names)} measure as {name!r}; allowed: once")
    return hosts


def table_name(host: Local | Pool | Slurm) -> str:
    """A host's name in the tables: the machine's own, where it is this one."""
    return platform.node() if isinstance(host, Local) else host.name
