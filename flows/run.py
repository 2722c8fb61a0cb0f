"""A run, the order that a host gets to measure, and the rows that say how the run ended on a host."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import AwareDatetime, Field, PositiveFloat

from slimline.flows.config.host import Local, Pool, Slurm, table_name
from slimline.flows.config.study import Study
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore
from slimline.storage.extras import missing_extra
from slimline.storage.metrics.rows import RoundRow, RunRow
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.resume import stored_rows
from slimline.tasks.measurement import summary
from slimline.tasks.measurement.rounds import has_random_weights
from slimline.tasks.runtime.host import library_versions
from slimline.tasks.specs import Spec


class Run(Spec):
    """A run, and what a host needs to know of it."""

    run: str = Field(description="Identifier of the run.")
    study: Study
    started: AwareDatetime = Field(description="When the run started.")
    flow_run: str | None = Field(None, description="Prefect's identifier of the run's flow run.")
    host: str | None = Field(None, description="Name of the host in the tables; null: the machine's own.")
    artifacts: dict[str, ArtifactRef] = Field({}, description="What was built, by variant.")
    failed: dict[str, str] = Field({}, description="Why others were not built, by variant.")

    @property
    def table_host(self) -> str:
        """The host's name in the tables."""
        return self.host or platform.node()

    def at(self, host: Local | Pool | Slurm) -> Self:
        """The same for one host."""
        return self.model_copy(update={"host": table_name(host)})


class Order(Run):
    """What a host is asked to measure: all that it needs beside the stores, as JSON."""

    slice_: ArtifactRef = Field(description="The data slice.")
    minutes: PositiveFloat | None = Field(None, description="Most minutes to measure; null: no limit.")


class RunEnd(NamedTuple):
    """How a run ended on a host: the noise floor (relative), whether it taints the run, and why something failed."""

    noise_floor: float | None
    tainted: bool | None
    error: str | None


def failure_reason(error: BaseException) -> str:
    """Why something failed: the extra to install, else the error's type and message."""
    return missing_extra(error) or f"{type(error).__name__}: {error}"


class Place(NamedTuple):
    """Where a process is: the machine, and its Slurm job."""

    node: str
    slurm_job: str | None


def place() -> Place:
    """Where this process is."""
    return Place(platform.node(), os.environ.get("SLURM_JOB_ID"))


def run_row(run: Run, ending: RunEnd, node: str | None) -> RunRow:
    """A row of `runs`."""
    study = run.study
    return RunRow(
        run=run.run,
        study=study.name,
        started=run.started,
        finished=datetime.now(UTC),
        host=run.table_host,
        node=node,
        flow_run=run.flow_run,
        status="failed" if ending.error else "ok",
        baseline=study.baseline,
        control=study.control,
        rounds=study.measuring.rounds,
        samples=study.data.samples,
        seed=study.seed,
        decoding=study.measuring.decoding.model_dump(mode="json"),
        versions=library_versions(),
        git_commit=_git_commit(),
        spec=study.model_dump(mode="json"),
        **ending._asdict(),
    )


def _git_commit() -> str | None:
    """Commit of the code that runs, where it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - our own words
    except (OSError, subprocess.CalledProcessError):
        return None


def append_measurements(
    run: Run, measurements: Sequence[summary.Measurement], store: ArtifactStore, metrics: MetricsStore
) -> None:
    """Append rows of `measurements`, in the order of the study's variants."""
    study = run.study
    subjects = {variant: _subject(run, variant, store) for variant in study.variants}
    in_order = sorted(measurements, key=lambda each: list(study.variants).index(each.variant))
    rows = summary.measurement_rows(
        in_order, subjects, run=run.run, study=study.name, host=run.table_host, time=datetime.now(UTC)
    )
    metrics.append(rows)


def _subject(run: Run, variant: str, store: ArtifactStore) -> summary.Subject:
    label, artifact = run.study.variants[variant].label, run.artifacts.get(variant)
    if artifact is None:
        return summary.Subject(None, label, random_weights=False)
    return summary.Subject(artifact.digest, label, has_random_weights(artifact, store))


def record_failure(run: Run, reason: str, metrics: MetricsStore) -> None:
    """Append the row of `runs` of a host on which nothing could be measured, unless it has one."""
    if not stored_rows(metrics, run.run, run.table_host).recorded:
        metrics.append([run_row(run, RunEnd(None, None, reason), None)])


def record_absence(run: Run, reason: str, store: ArtifactStore, metrics: MetricsStore) -> None:
    """Append the rows of a host that did not measure everything: its run, and each variant without a speed."""
    stored = stored_rows(metrics, run.run, run.table_host)
    if not stored.measured:
        speeds = summary.speed_measurements(stored.rounds, run.study.baseline)
        append_measurements(run, [*speeds, *missing_speeds(run, stored.rounds, reason)], store, metrics)
    record_failure(run, reason, metrics)


def missing_speeds(run: Run, rounds: Sequence[RoundRow], reason: str) -> list[summary.Measurement]:
    """Measurements without a value for the variants that no round has: why they were not built, else `reason`."""
    absent = [variant for variant in run.study.variants if variant not in {row.variant for row in rounds}]
    return [
        summary.missing_measurement(variant, "samples_per_s", run.failed.get(variant, reason)) for variant in absent
    ]
